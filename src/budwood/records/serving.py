"""Which engines serve an export, and what they are checked against."""

from typing import Literal, get_args

from budwood.records.strict import Strict

CHECK = "certificate_check.py"
"""The script in an export with which anybody checks an engine; no part of the model."""

EngineName = Literal["transformers", "vllm", "llama.cpp"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
NOT_TRIED = "not tried"


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

    @property
    def word(self) -> str:
        """The answer, for a table."""
        return NOT_TRIED if self.opens is None else "yes" if self.opens else "no"


OpensIn = dict[EngineName, Opening]
