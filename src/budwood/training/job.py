"""Everything that one training run needs."""

import socket
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from budwood.arch.spec import Architecture
from budwood.models.settings import DeviceName, Precision
from budwood.records.strict import Strict, naming
from budwood.training.settings import DistillationSettings, Engine, Schedule

Initialisation = Literal["random", "checkpoint"]


class TrainingJob(Strict):
    """One arm: which model, from which start, on what, towards which objective."""

    arm: str
    """Names the run's metrics."""
    model_folder: Path | None = None
    """Checkpoint that gives the architecture, and the weights unless they are random."""
    architecture: Architecture | None = None
    """In place of a checkpoint: one of the teacher's family, for random weights."""
    initialisation: Initialisation
    """`random` draws the weights by the family's own scheme, with standard rotary embeddings; `checkpoint` reads those
    of `model_folder`."""
    teacher_folder: Path
    """Gives the tokenizer, and a random model's configuration apart from its sizes."""
    corpus_folder: Path
    output_folder: Path
    """Belongs to this run alone: checkpoints, curve and result."""
    branch_folder: Path | None = None
    """Of `warmup_stable_decay`: keeps the checkpoint before the decay, with which a longer run starts. Shared by runs
    that differ only in length."""
    learning_rate: float = Field(gt=0)
    """Peak."""
    schedule: Schedule
    distillation: DistillationSettings | None = None
    """With it, the teacher's distribution is part of the objective."""
    cache_folder: Path | None = None
    """Entries of a cached teacher; see `budwood.training.cache`."""
    heldout_windows: int = Field(gt=0)
    """Validation sequences behind the held-out curve, of the sources that are trained on."""
    frozen_batch: bool = False
    """Whether every step reads the batch of the first one: a student that learns soon knows it by heart."""
    device: DeviceName = "auto"
    precision: Precision = "auto"
    """Of matrix products; weights and optimiser state are always float32."""
    engine: Engine = Engine()

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the job in a JSON file.

        Raises:
            ValueError: the file is missing or damaged, or is no job.
        """
        if not file.is_file():
            raise ValueError(
                f"{file} is not on {socket.gethostname()}: every node needs the data folder, under the same path"
            )
        with naming(f"{file.resolve()} is not a training job", OSError, ValueError):
            return cls.model_validate_json(file.read_bytes())

    def brief(self, schedule: Schedule, folder: Path, *, frozen_batch: bool = False) -> Self:
        """Return a short run that only shows how training goes: it keeps no branch, and no tracker shows it.

        Args:
            schedule: of the short run.
            folder: belongs to it alone.
            frozen_batch: whether every step reads the batch of the first one.
        """
        changes = {"schedule": schedule, "output_folder": folder, "frozen_batch": frozen_batch}
        engine = self.engine.model_copy(update={"report_to": ()})
        return self.model_copy(update=changes | {"heldout_windows": 1, "branch_folder": None, "engine": engine})

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model_folder is None) == (self.architecture is None):
            raise ValueError("give exactly one of model_folder and architecture")
        if self.architecture is not None and self.initialisation != "random":
            raise ValueError(f"initialisation={self.initialisation!r} needs a model_folder with weights")
        if self.branch_folder is not None and self.schedule.shape != "warmup_stable_decay":
            raise ValueError(f"branch_folder needs shape=warmup_stable_decay, got {self.schedule.shape}")
        if self.engine.sharding and self.schedule.optimizer == "muon":
            raise ValueError("sharding=true needs optimizer=adamw: muon works on whole matrices")
        return self
