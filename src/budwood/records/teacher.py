"""The teacher: what it is, and how well it predicts text."""

from budwood.arch.spec import Architecture
from budwood.records.cost import Cost
from budwood.records.strict import Strict


class IntakeRecord(Strict):
    """How far readings of one teacher differ, as shares of the largest logit where that is above one."""

    num_tokens: int
    """Of the probe."""
    dtype: str
    """In which the readings were run."""
    tolerance: float
    reading_difference: float
    """Between plain transformers and our reading of the files."""
    cut_difference: float
    """Between plain transformers and the whole cut, from which nothing is removed."""


class TeacherRecord(Strict):
    """What the teacher is."""

    name: str
    revision: str
    """Commit hash of a hub model; `local` elsewhere."""
    model_type: str
    num_parameters: int
    fingerprint: str
    license: str
    attribution: str
    num_token_ids: int
    """Ids that occur in texts: those of its tokenizer, as far as its embedding has rows, which may be more."""
    architecture: Architecture
    intake: IntakeRecord


class SourceLoss(Strict):
    """The teacher's loss on one source of one split, in nats per token."""

    split: str
    source: str
    tokens: int
    perplexity: float
    loss: float
    standard_error: float
    bits_per_byte: float
    bits_per_byte_standard_error: float


class HeldOutText(Strict):
    """The text on which the teacher and all arms are scored."""

    tokens_per_sequence: int
    bytes: dict[str, list[int]]
    """Bytes of the predicted text of every sequence, by source."""


class TeacherEvaluation(Strict):
    """The teacher's losses, and what they cost."""

    perplexity: tuple[SourceLoss, ...]
    losses: dict[str, list[float]]
    """On every validation sequence, by source, in nats per token."""
    text: HeldOutText
    costs: tuple[Cost, ...]
