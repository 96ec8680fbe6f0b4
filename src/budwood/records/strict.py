"""The base of settings and records."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

HOW = "how"
"""Marks a field, as in `workers: Annotated[int, HOW] = 1`, that decides how work is done and never what results."""


class Strict(BaseModel):
    """Frozen; refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


def facts(settings: BaseModel) -> dict[str, Any]:
    """Return what decides results: all fields in JSON form, except those marked by `HOW`, at every depth."""
    deciding: dict[str, Any] = _deciding(settings, settings.model_dump(mode="json"))
    return deciding


def _deciding(value: object, plain: Any) -> Any:
    if isinstance(value, BaseModel) and isinstance(plain, dict):
        fields = type(value).model_fields
        return {
            name: _deciding(getattr(value, name), part)
            for name, part in plain.items()
            if name not in fields or HOW not in fields[name].metadata
        }
    if isinstance(value, Mapping):
        return {str(key): _deciding(part, plain[key]) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_deciding(part, plain[place]) for place, part in enumerate(value)]
    return plain
