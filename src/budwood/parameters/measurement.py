"""On what models are measured, where they run, and what they are asked."""

from pydantic import Field

from budwood.evaluation.efficiency import EfficiencySettings
from budwood.evaluation.harness import Benchmark, choose_benchmarks
from budwood.evaluation.heldout import CONTINUATION, LAST_WORD, NUM_CHOICES, HeldOutSettings
from budwood.models.device import Compute, choose_compute
from budwood.models.settings import DeviceName, Precision
from budwood.records.strict import Strict

TOKENS_PER_WORD = 1.2
"""Of questions, about, padding included; measured on the quickstart's, whose tokenizer is SmolLM2's."""


class MeasurementParameters(Strict):
    """On which sequences of text models are measured, and where they run; every split serves one purpose."""

    length: int = Field(gt=0)
    """Tokens predicted per sequence."""
    calibration: int = Field(gt=0)
    """Sequences behind the importance scores."""
    elimination: int = Field(default=4, gt=0)
    """The most of these on which layers are left out one by one."""
    selection: int = Field(gt=0)
    """Sequences on which all candidates of a search are compared."""
    choice: int = Field(gt=0)
    """Sequences on which the winner is chosen among the finalists."""
    validation: int = Field(gt=0)
    """Sequences of each source for the reported losses."""
    heldout: int = Field(gt=0)
    """Validation sequences behind the curves; also of every other split for the teacher's loss there."""
    batch_size: int = Field(default=4, gt=0)
    """Sequences of one forward pass."""
    device: DeviceName = "auto"
    precision: Precision = "auto"

    @property
    def searched(self) -> dict[str, int]:
        """Sequences of each split that a search works with, of all sources together."""
        return {"calibration": self.calibration, "selection": self.selection, "choice": self.choice}

    @property
    def reported(self) -> dict[str, int]:
        """Sequences of every source of each split that losses are reported for."""
        return dict.fromkeys(("train", *self.searched), self.heldout) | {"validation": self.validation}

    def compute(self) -> Compute:
        """Return the device and precision of this machine."""
        return choose_compute(self.device, self.precision)


class EvaluationParameters(Strict):
    """What trained models are asked, and how fast sub-networks run, beside the losses of `measurement`."""

    tasks: tuple[str, ...] = ("heldout",)
    """Presets (`heldout`, `paper`, `extended`; see `budwood.evaluation.harness.PRESETS`) and tasks of lm_eval by name;
    none: nothing is asked."""
    limit: int | None = Field(default=None, gt=0)
    """Questions of every task, the first ones; null: all."""
    batch_size: int = Field(default=4, gt=0)
    """Questions of one forward pass."""
    heldout: HeldOutSettings = HeldOutSettings()
    """How questions are made from held-out text; see `budwood.evaluation.heldout.HeldOutSettings`."""
    efficiency: EfficiencySettings | None = EfficiencySettings()
    """What is timed; see `budwood.evaluation.efficiency.EfficiencySettings`. Null: nothing."""

    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Return what is asked."""
        return choose_benchmarks(self.tasks)

    def question_tokens(self, num_sources: int) -> int:
        """Return about how many tokens a model reads of all held-out questions.

        Args:
            num_sources: of validation text.
        """
        asked = self.heldout.questions * num_sources
        asked = asked if self.limit is None else min(asked, self.limit)
        words = self.heldout.context_words + self.heldout.continuation_words
        tasks = {benchmark.task for benchmark in self.benchmarks()}
        requests = (LAST_WORD in tasks) + NUM_CHOICES * (CONTINUATION in tasks)
        return round(asked * requests * words * TOKENS_PER_WORD)
