"""The base of all settings, and what of them decides a result."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

_LONGEST_VALUE = 60


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
            raise ValueError("; ".join(mistakes(type(self), error))) from None


@contextmanager
def naming(place: object, *faults: type[Exception]) -> Iterator[None]:
    """Put a setting or a file, or what is wrong with it, in front of the message of an error.

    Args:
        place: begins the message.
        faults: errors that say so; a `ValueError` without any.

    Raises:
        ValueError: one of them was raised.
    """
    caught = faults or (ValueError,)
    try:
        yield
    except caught as error:
        raise ValueError(f"{place}: {error}") from error


def mistakes(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return one line for everything that is wrong: its path, what is allowed, and what was given."""
    lines = []
    for problem in error.errors():
        path, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
        match problem["type"]:
            case "extra_forbidden":
                message = f"there is no such setting{_instead(str(path[-1]), _settings_at(model, path[:-1]))}"
            case "missing":
                message = "this setting is missing"
            case "tuple_type" | "list_type":
                message = "must be a list, such as [first, second]"
            case "dict_type" | "model_type":
                message = "must be a group of settings, such as {name: value}"
        given = [] if problem["type"] == "missing" or not path else [f" (got {_short(problem['input'])})"]
        lines.append("".join([*[f"{'.'.join(map(str, path))}: "] * bool(path), message, *given]))
    return lines


def _instead(name: str, names: Iterable[str]) -> str:
    """Return the setting that was meant, or all that there are."""
    near = get_close_matches(name, names, n=1)
    every = ", ".join(names)
    return f"; did you mean {near[0]}?" if near else f"; there are {every}" * bool(every)


def _settings_at(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """Return the names of the settings at a path, as pydantic gives it, below a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields
        if not path:
            return list(fields)
        return _settings_at(fields[path[0]].annotation, path[1:]) if path[0] in fields else []
    inner = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) in (dict, tuple, list):
        return _settings_at(inner[-1], path[1:]) if path else []
    return next(filter(None, (_settings_at(each, path) for each in inner)), [])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


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
