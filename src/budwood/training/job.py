"""Everything that one training run needs."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from budwood.arch.spec import Architecture
from budwood.models.settings import DeviceName, Precision
from budwood.records.strict import Strict
from budwood.training.settings import DistillationSettings, Engine, Schedule

Initialisation = Literal["random", "subnet", "checkpoint"]


class TrainingJob(Strict):
    """One arm: which model, from which start, on what, towards which objective."""

    arm: str
    """Names the run's metrics."""
    model_folder: Path | None = None
    """Checkpoint that gives the architecture, and the weights unless they are random."""
    architecture: dict[str, Any] | None = None
    """In place of a checkpoint: `Architecture.to_dict()` of the teacher's family, for random weights."""
    initialisation: Initialisation
    """`random` draws the weights by the family's own scheme, with standard rotary embeddings; `subnet` takes those of
    an export with its certificate, `checkpoint` those of any folder."""
    teacher_folder: Path
    """Gives the tokenizer and all of a random model's configuration that is no size."""
    corpus_folder: Path
    output_folder: Path
    """Belongs to this run alone: checkpoints, curve and result."""
    branch_folder: Path | None = None
    """Of `warmup_stable_decay`: keeps the checkpoint before the decay, and gives a longer run its start. Shared by runs
    that differ in length alone."""
    learning_rate: float = Field(gt=0)
    """Peak."""
    schedule: Schedule
    distillation: DistillationSettings | None = None
    """Given, the teacher's distribution is part of the objective."""
    cache_folder: Path | None = None
    """What a cached teacher has said; see `budwood.training.cache`."""
    heldout_windows: int = Field(gt=0)
    """Validation sequences behind the held-out curve."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    """Of matrix products; weights and optimiser state are float32 always."""
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model_folder is None) == (self.architecture is None):
            raise ValueError("give exactly one of model_folder and architecture")
        if self.architecture is not None:
            Architecture.from_dict(self.architecture)
            if self.initialisation != "random":
                raise ValueError(f"initialisation={self.initialisation!r} needs a model_folder with weights")
        if self.branch_folder is not None and self.schedule.shape != "warmup_stable_decay":
            raise ValueError(f"branch_folder needs shape=warmup_stable_decay, got {self.schedule.shape}")
        if self.engine.sharding and self.schedule.optimizer == "muon":
            raise ValueError("sharding=true needs optimizer=adamw: muon works on whole matrices")
        return self
