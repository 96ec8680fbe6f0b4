"""The base of all settings."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen; refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
