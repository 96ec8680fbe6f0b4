"""Types of fields that are described elsewhere, in the JSON form that they have of their own."""

from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture

ArchitectureField = Annotated[
    InstanceOf[Architecture],
    BeforeValidator(lambda value: Architecture.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(Architecture.to_dict),
]
SelectionField = Annotated[
    InstanceOf[Selection],
    BeforeValidator(lambda value: Selection.from_dict(value) if isinstance(value, dict) else value),
    PlainSerializer(Selection.to_dict),
]
