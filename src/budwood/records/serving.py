"""Which engines serve an export, and what they are checked against."""

from typing import Literal

from budwood.records.strict import Strict

EngineName = Literal["transformers", "vllm", "llama.cpp"]


class Prompt(Strict):
    """Tokens, and what the child in memory thinks of them."""

    input_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of every token but the first, given those before it."""


class Opening(Strict):
    """Whether an engine opens an export."""

    opens: bool | None
    """None where it was not tried."""
    how: str
    """How that was checked, or why not."""


OpensIn = dict[EngineName, Opening]
