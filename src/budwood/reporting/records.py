"""The shapes of the records that the report is made from."""

from typing import Any, NotRequired, TypedDict

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
    schedule: NotRequired[dict[str, Any]]
    """With which it was trained."""
    corpus_fingerprint: NotRequired[str]
    subnet_fingerprint: NotRequired[str]
    """Of the checkpoint that it started from, or whose architecture it has."""
    code: NotRequired[str]
    """Hash of the source that trained it."""
    folder: NotRequired[str]
    """Where the trained checkpoint is."""
    engines: NotRequired[list[str]]
    """Inference engines that open the folder, as far as that was tested."""


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
    settings: NotRequired[dict[str, Any]]
    """With which it was searched."""


def variant_name(bin_name: str, space: str) -> str:
    """Return the name under which a variant is shown; costs of no variant are 'shared'."""
    return " · ".join(part for part in (bin_name, space) if part != SHARED) or "shared"
