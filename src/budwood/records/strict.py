"""The base of all settings, and what of them decides a result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python


class Strict(BaseModel):
    """Frozen; refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return a validated copy with other values.

        Raises:
            ValueError: one is unknown, not allowed, or does not go with the others; the message is one line.
        """
        try:
            return type(self).model_validate(self.model_dump() | dict(changes))
        except ValidationError as error:
            problems = [
                ": ".join([*[".".join(map(str, problem["loc"]))] * bool(problem["loc"]), problem["msg"]])
                for problem in error.errors()
            ]
            raise ValueError("; ".join(problems).replace("Value error, ", "")) from None


def without_nulls(data: object) -> object:
    """Leave out what an environment takes away from the one under it by giving it null."""
    return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


@dataclass(frozen=True, slots=True)
class _How:
    """Equal to all others of its kind, because pydantic may copy the metadata of a field."""


HOW: Final = _How()
"""Marks a field that decides how something runs and never what comes out: `workers: Annotated[int, HOW] = 1`."""


def facts(settings: BaseModel) -> dict[str, Any]:
    """Return settings as JSON values without the fields marked `HOW`, those of nested settings included.

    Two settings with equal facts give the same result, so that a fingerprint is made of them.
    """
    fields = type(settings).model_fields.items()
    return {name: _fact(getattr(settings, name)) for name, field in fields if HOW not in field.metadata}


def _fact(value: object) -> Any:
    if isinstance(value, BaseModel):
        return facts(value)
    if isinstance(value, Mapping):
        return {str(key): _fact(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_fact(entry) for entry in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return to_jsonable_python(value)
