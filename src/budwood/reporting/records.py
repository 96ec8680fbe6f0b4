"""The shapes of the records that the report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import pandas as pd

BASELINE = "random_init"
ARMS = (BASELINE, "subnet_init", "distilled")
REFERENCE = "reference_init"
"""The arm of a bin whose reference architecture is named: that architecture from random weights."""
CONTINUED = "subnet_init"
"""The arm that is trained as probes are, and takes their steps over where the schedule lets it."""
SHARED = ""
"""Stands for the bin, space or arm of a cost that no single variant or arm has caused."""


class TeacherPerplexity(TypedDict):
    """The teacher's loss on one source of one split, in nats per token."""

    split: str
    source: str
    perplexity: float
    loss: float
    standard_error: float
    bits_per_byte: float
    bits_per_byte_standard_error: float
    tokens: int


class HeldOutText(TypedDict):
    """The text on which the teacher and all arms are scored."""

    tokens_per_sequence: int
    bytes: dict[str, list[int]]
    """Bytes of the predicted text of every sequence, by source."""


class Teacher(TypedDict):
    """Who the teacher is and how well it predicts every split."""

    name: str
    model_type: str
    num_parameters: int
    revision: str
    fingerprint: str
    license: str
    perplexity: list[TeacherPerplexity]


class Arm(TypedDict):
    """One trained model: its cost, and its mean loss in nats on each validation sequence, by source.

    All arms and the teacher are scored on the same sequences in the same order.
    """

    bin: str
    space: str
    arm: str
    num_parameters: int
    tokens: int
    learning_rate: float
    seconds: float
    student_flops: float
    teacher_flops: float
    heldout_flops: float
    heldout_tokens: int
    device: str
    precision: str
    losses: dict[str, list[float]]
    tokens_per_sequence: NotRequired[int]
    seed: NotRequired[int]
    """Of its training, where an arm ran with several."""


class LedgerEntry(TypedDict):
    """One cost. `bin`, `space` and `arm` are empty where they do not apply."""

    stage: str
    bin: str
    space: str
    arm: str
    flops: float
    tokens: int
    seconds: float


class Winner(TypedDict):
    """What the search of one variant found, and what that cost."""

    bin: str
    space: str
    description: str
    num_parameters: int
    num_evaluations: int
    fitness: str
    selection_loss: float
    """On the text of the search, by its fitness."""
    choice_loss: float
    """On the text of the choice, nats per token, corrected as it is exported."""
    choice_interval: tuple[float, float]
    """Of that, with 95 % confidence."""
    lead: float | None
    """Over the next finalist; none where there was none."""
    lead_interval: tuple[float, float] | None
    finalist_tokens: int
    """On which finalists were trained before the choice."""
    search_flops: float
    """Of search and choice, as they ran."""
    paper_flops: float
    """What the paper's schedule would have cost: 5,050 candidates on 512,000 tokens each."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the report tells.

    Attributes:
        results: see `budwood.reporting.tables.results_table`.
        savings: see `budwood.reporting.ledger.savings`.
        search_spaces: one row per (bin, space): `bin`, `space`, `low`, `high`, `smallest`, `largest`, `log10_members`,
            `log10_members_paper`, `reachable`.
        corpus_counts: `split`, `source`, `documents`, `tokens`.
        teacher: the teacher's record.
        ledger: all costs.
        winners: of all searches.
        tasks: see `budwood.reporting.benchmarks.tasks_table`.
        speeds: see `budwood.reporting.benchmarks.speeds_table`.
        further: sections that only some studies have, markdown by heading.
        provenance: how it was made (seeds, fingerprints, versions ...), shown as a nested list.
    """

    results: pd.DataFrame
    savings: pd.DataFrame
    search_spaces: pd.DataFrame
    corpus_counts: pd.DataFrame
    teacher: Teacher
    ledger: list[LedgerEntry]
    winners: list[Winner]
    tasks: pd.DataFrame
    speeds: pd.DataFrame
    provenance: Mapping[str, object]
    further: Mapping[str, str] = field(default_factory=dict)


def variant_name(bin_name: str, space: str) -> str:
    """Return the name under which a variant is shown; costs of no variant are 'shared'."""
    return " · ".join(part for part in (bin_name, space) if part != SHARED) or "shared"
