"""What a training run did, with the settings it was made with, and what its model is worth."""

from typing import Annotated

from pydantic import Field, JsonValue

from budwood.records.cost import Cost
from budwood.records.gate import Gate
from budwood.records.placed import Placed
from budwood.records.strict import HOW, Strict


class MadeWith(Strict):
    """What decided the result of a run: two runs compare where these are alike."""

    schedule: dict[str, JsonValue]
    """Of `budwood.training.settings.Schedule`, as it was when the run was made."""
    corpus: str
    """Fingerprint of the text."""
    start: str
    """Fingerprint of the checkpoint that the run began with; the architecture's where weights were random."""
    teacher: str | None
    """Fingerprint of the teacher that took part; none without one."""
    heldout: int
    """Validation sequences behind the curve."""
    code: str
    """Hash of the source that made it."""


class Run(Strict):
    """What a training run did."""

    arm: str
    tokens: int
    steps: int
    tokens_per_step: int
    learning_rate: float
    student_flops: float
    teacher_flops: float
    """Of all forward passes of a teacher that ran beside the student, or that wrote the cache that it read."""
    teacher_cached: bool = False
    """Whether it read a cache: the ledger has that once for all its readers."""
    seconds: Annotated[float, HOW]
    tokens_per_second: Annotated[float | None, HOW] = None
    mfu: Annotated[float | None, HOW] = None
    device: Annotated[str, HOW]
    precision: str


class SweptRates(Strict):
    """Peak learning rates that were tried on few tokens, and what became of each."""

    rates: tuple[float, ...]
    """In ascending order."""
    losses: tuple[float | None, ...]
    """On the text of the choice, in nats; None where training diverged."""
    untrained: float
    """The loss before any training; that of guessing for random weights."""
    cost: Cost

    @property
    def best(self) -> float:
        """The rate with the lowest loss.

        Raises:
            ValueError: training diverged at all of them.
        """
        found = {rate: loss for rate, loss in zip(self.rates, self.losses, strict=True) if loss is not None}
        if not found:
            raise ValueError(f"training diverges at each of the rates {list(self.rates)}: try lower ones")
        return min(found, key=lambda rate: found[rate])

    @property
    def doubts(self) -> str:
        """Why another rate may be better or safer; empty where nothing speaks for that."""
        place = self.rates.index(self.best)
        if place in {0, len(self.rates) - 1}:
            return f"{self.best:g} is the {'highest' if place else 'lowest'} that was tried"
        after = self.losses[place + 1]
        if after is None or not after < self.untrained:
            return f"{self.best:g} is at the edge of what is stable: at {self.rates[place + 1]:g} nothing is learned"
        return ""


class TrainingRecord(Run):
    """One training run, with what it was made with and what was measured on its way."""

    seed: int
    steady_steps: int
    """Steps before the decay of `warmup_stable_decay`, which a longer run can take over; 0 elsewhere."""
    heldout_flops: float
    heldout_tokens: int
    made_with: MadeWith
    gates: tuple[Gate, ...] = ()
    """What was checked before the run."""
    sweep: SweptRates | None = None
    """What chose the learning rate, once for all seeds."""

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The student with all seconds, a live teacher, the held-out losses on the way, and gates of its own."""
        student = Cost(
            stage="training", arm=self.arm, tokens=self.tokens, flops=self.student_flops, seconds=self.seconds
        )
        teacher = Cost(stage="teacher", arm=self.arm, tokens=self.tokens, flops=self.teacher_flops)
        heldout = Cost(stage="heldout", arm=self.arm, tokens=self.heldout_tokens, flops=self.heldout_flops)
        gates = [gate.cost.model_copy(update={"arm": self.arm}) for gate in self.gates if not gate.once]
        return (student, *([teacher] if self.teacher_flops and not self.teacher_cached else []), heldout, *gates)


class Score(TrainingRecord, Placed):
    """A trained model: its run, and its mean loss in nats on each validation sequence, by source.

    All arms and the teacher are scored on the same sequences in the same order.
    """

    run: str
    """Name of the run: the arm's, with the seed after the first."""
    num_parameters: int
    losses: dict[str, list[float]]
    tokens_per_sequence: int
    foreign: dict[str, list[float]] = Field(default_factory=dict)
    """The same on text of which training text has none."""
    foreign_before: dict[str, list[float]] = Field(default_factory=dict)
    """The same of the checkpoint that the run began with; empty where its weights were random."""
    folder: str = ""
    """Of the trained checkpoint, as seen from the project's."""
    engines: tuple[str, ...] = ()
    """Inference engines that open it, as far as that was tried."""

    @property
    def record(self) -> TrainingRecord:
        """The run alone."""
        return TrainingRecord(**{name: getattr(self, name) for name in TrainingRecord.model_fields})


class ProbeScore(TrainingRecord):
    """A probe: its run, and its losses on the text of the choice."""

    num_parameters: int
    losses: list[float]
    looked: Cost
    """What that look cost."""
