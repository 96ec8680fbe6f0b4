"""Proof that an exported folder is the child that a search found, as a plain record."""

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field

from budwood.records.cost import Cost
from budwood.records.serving import EngineName, OpensIn
from budwood.records.strict import Strict


class LogitProbe(Strict):
    """Logits that anybody can compute again."""

    input_ids: tuple[int, ...]
    columns: tuple[int, ...]
    """Tokens whose logits are given."""
    logits: tuple[tuple[float, ...], ...]
    """One row for every position."""


class Proof(Strict):
    """What was compared between a child in memory and its folder, loaded again by plain transformers."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    num_parameters: int
    num_parameters_closed_form: int
    parameter_bin: tuple[int, int]
    """Inclusive."""
    largest_logit_difference: float
    """In float32."""
    tolerance: float
    probe_lengths: tuple[int, ...]
    """Tokens of the texts on which the two were compared."""
    probe: LogitProbe
    dtypes: Mapping[str, int]
    """How many parameters are stored in every precision: each keeps that of the teacher's file."""
    native: bool
    """Whether the class is one of transformers."""
    model_class: str = Field(alias="class")


class Lessons(Strict):
    """How a sub-network was trained after it was cut."""

    arm: str
    start: str
    """Fingerprint of the checkpoint that it began with."""
    tokens: int
    learning_rate: float
    """Peak."""
    distilled: bool
    """Whether its teacher took part."""


class Certificate(Proof):
    """What was checked of an exported folder, and where it came from."""

    schema_version: Literal[1] = 1
    fingerprint: str
    teacher: str
    teacher_revision: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    search: str = "unknown"
    """What was searched."""
    ordering: str
    rope: str
    compensation: tuple[str, ...]
    """Names of the corrections."""
    kept_channels: tuple[int, ...]
    """For every channel of the child's residual stream, the teacher's."""
    kept_layers: tuple[int, ...]
    """For every layer of the child in depth order, the teacher's."""
    opens_in: OpensIn = Field(default_factory=dict)
    """Which engines open the folder, and how that was checked."""
    training: Lessons | None = None
    """None where nothing was trained since the cut."""
    costs: tuple[Cost, ...] = ()
    """Of recording the prompts and asking a question; of a trained model also of its proof."""

    @property
    def engines(self) -> tuple[EngineName, ...]:
        """Engines that were seen to open the folder and answer as they should."""
        return tuple(engine for engine, opening in self.opens_in.items() if opening.opens)

    def summary(self) -> dict[str, str | float]:
        """Return the facts that fit in a table."""
        names = {"num_parameters", "largest_logit_difference", "native", "model_class", "fingerprint"}
        opens = {engine: f"{opening.word}: {opening.how}" for engine, opening in self.opens_in.items()}
        return self.model_dump(mode="json", include=names, by_alias=True) | opens
