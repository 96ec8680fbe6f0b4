"""Types of fields that have a JSON form of their own."""

from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from budwood.arch.selection import Selection

SelectionField = Annotated[
    InstanceOf[Selection],
    BeforeValidator(lambda value: Selection.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(Selection.to_dict),
]
