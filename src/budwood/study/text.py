"""The text of a study: packed once, and read in windows that every stage declares."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from budwood.corpus.ingestion import deciding_sources, tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.corpus.split import FOREIGN
from budwood.corpus.tokenization import fingerprint_tokenizer
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute, choose_compute
from budwood.study.costs import Extent
from budwood.study.settings import MeasurementSettings
from budwood.study.stage import NOT_DECIDING, Stage, Work
from budwood.training.order import training_starts
from budwood.training.settings import Schedule

MANY_READINGS = 4
"""Readings of a text up to which it is almost as good as new text: Muennighoff et al. 2023, arXiv 2305.16264."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Some sequences of a split, of all sources together."""

    tokens: PackedCorpus
    split: str
    length: int
    """Tokens predicted per sequence."""
    count: int

    @classmethod
    def searched(cls, tokens: PackedCorpus, split: str, measurement: MeasurementSettings) -> "Windows":
        """Return the sequences of a split that searches work with."""
        length, count = measurement.length_of(split), measurement.searched[split]
        return cls(tokens=tokens, split=split, length=length, count=count)

    @property
    def extent(self) -> Extent:
        """How much is read."""
        return Extent(self.count, self.length)

    def read(self) -> Tensor:
        """Return [N, T + 1] token ids."""
        return torch.from_numpy(self.tokens.windows(self.split, self.length, limit=self.count))


@dataclass(frozen=True, slots=True)
class Materials:
    """What most stages work with: a teacher, text in its tokens, and how much of it is read."""

    teacher: Checkpoint
    tokens: PackedCorpus
    measurement: MeasurementSettings

    @property
    def compute(self) -> Compute:
        """Device and precision of this machine."""
        return choose_compute(*self.measurement.hardware)

    def windows(self, split: str) -> Windows:
        """Return the sequences of a split that searches work with."""
        return Windows.searched(self.tokens, split, self.measurement)

    @property
    def refitting(self) -> Windows:
        """The sequences to which exported cuts are refitted."""
        return replace(self.windows("calibration"), count=self.measurement.num_refit)


@dataclass(frozen=True, kw_only=True)
class PackText(Stage[PackedCorpus]):
    """Tokenise with the teacher's tokenizer and pack."""

    name: ClassVar[str] = "corpus"
    answers: ClassVar[bool] = False
    """Files of text may have changed: what was read of them is compared at every run."""

    sources: Sequence[SourceSettings]
    """Without what does not decide their tokens."""
    seed: int
    tokenizer: str
    """Its fingerprint."""
    vocab_size: int
    teacher: Checkpoint = field(metadata=NOT_DECIDING)
    corpus: CorpusSettings = field(metadata=NOT_DECIDING)
    root: Path = field(metadata=NOT_DECIDING)
    """Where relative paths of text begin."""

    @classmethod
    def of(cls, teacher: Checkpoint, corpus: CorpusSettings, root: Path) -> "PackText":
        """Declare the text of a teacher."""
        return cls(
            sources=deciding_sources(corpus),
            seed=corpus.seed,
            tokenizer=fingerprint_tokenizer(teacher.load_tokenizer()),
            vocab_size=teacher.architecture.vocab_size,
            teacher=teacher,
            corpus=corpus,
            root=root,
        )

    def run(self, work: Work) -> PackedCorpus:
        """Read, tokenise and pack all sources; a killed run continues after its last whole shard.

        Raises:
            ValueError: a source cannot be read, or has nothing that the sources before it lack.
        """
        tokens = tokenize_sources(
            self.corpus,
            self.teacher.load_tokenizer(),
            folder=work.folder / "tokens",
            root=self.root,
            vocab_size=self.vocab_size,
        )
        require_sources(tokens, self.corpus.sources)
        return tokens


def require_sources(tokens: PackedCorpus, sources: Collection[str]) -> None:
    """Check that every source is in the packed text: of equal texts only the first is.

    Raises:
        ValueError: one is not.
    """
    lost = set(sources) - {part.source for part in tokens.segments}
    if lost:
        raise ValueError(
            f"corpus.sources: all texts of {', '.join(sorted(lost))} are in other sources too, which keep them; "
            "name it before those, or take it away"
        )


def require_text(tokens: PackedCorpus, measurement: MeasurementSettings, schedule: Schedule) -> None:
    """Check that every split is large enough for what a study asks of it; warn where training reads its text often.

    Raises:
        ValueError: one is not; the message gives what it has.
    """
    require_measured(tokens, measurement)
    available = len(training_starts(tokens, schedule)) * schedule.sequence_length
    if schedule.num_tokens > MANY_READINGS * available:
        logger.warning(
            "Training reads its text %.0f times: schedule.tokens=%s, and the training split has %s. Text that is read "
            "more than about %d times teaches little more; add text, or lower schedule.tokens",
            schedule.num_tokens / available,
            f"{schedule.tokens:,}",
            f"{available:,}",
            MANY_READINGS,
        )
    tokens.heldout_starts(schedule.sequence_length, measurement.heldout)


def require_measured(tokens: PackedCorpus, measurement: MeasurementSettings) -> None:
    """Check that every split has the sequences that searches and measurements read.

    Raises:
        ValueError: one has not; the message gives what it has.
    """
    needed = {"calibration": max(measurement.calibration, measurement.num_refit)}
    for split, count in (measurement.searched | needed).items():
        _require(tokens, measurement.length_of(split), {split: count}, per_source=False)
    reported = dict(measurement.reported)
    if not tokens.sources(FOREIGN):
        del reported[FOREIGN]
    _require(tokens, measurement.final_length, reported, per_source=True)


def _require(tokens: PackedCorpus, length: int, counts: Mapping[str, int], *, per_source: bool) -> None:
    """Check that every split has the sequences that are asked of it, or of every source that it has."""
    for split, count in counts.items():
        sources: list[str | None] = [*tokens.sources(split)] if per_source else []
        for source in sources or [None]:
            tokens.window_starts(split, length, source=source, limit=count)
