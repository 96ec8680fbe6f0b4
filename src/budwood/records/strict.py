"""The base of all settings."""

from pydantic import BaseModel, ConfigDict

HOW = object()
"""Marks a field that only decides how a result is computed, never what it is: `Annotated[int, HOW]`."""


class Strict(BaseModel):
    """Frozen; refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
