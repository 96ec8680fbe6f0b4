"""Everything that one training run needs."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from budwood.subnet.device import DeviceName, Precision
from budwood.training.losses import DistillationWeights, Divergence

Initialisation = Literal["random", "checkpoint"]
DistillationLoss = Literal["full", "topk_renorm", "topk_tail", "sampled"]


class Strict(BaseModel):
    """Frozen; refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(Strict):
    """How many tokens are trained, in which portions, and how learning proceeds (paper, tables 3 to 8)."""

    tokens: int = Field(gt=0)
    """Tokens predicted in the whole run; rounded up to whole optimiser steps."""
    sequence_length: int = Field(gt=0)
    """Tokens predicted per sequence."""
    global_batch: int = Field(gt=0)
    """Sequences of one optimiser step."""
    micro_batch: int = Field(gt=0)
    """Sequences that fit through the model at once; divides the global batch."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    final_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Where the cosine ends, relative to the peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    num_evaluations: int = Field(default=4, ge=1)
    """Held-out losses taken on the way, the last one at the end; one more is taken at step 0."""
    checkpoint_steps: int = Field(default=500, gt=0)
    """Optimiser steps between checkpoints."""
    seed: int = 42

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"micro_batch={self.micro_batch} must divide global_batch={self.global_batch}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted per optimiser step."""
        return self.global_batch * self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run."""
        return -(-self.tokens // self.tokens_per_step)

    @property
    def num_sequences(self) -> int:
        """Sequences that the run reads."""
        return self.num_steps * self.global_batch


class DistillationSettings(Strict):
    """`alpha * CE + beta * T^2 * D(teacher, student)` (paper, equation 2; section 4: 0.2, 0.8, 0.9, top 1024)."""

    alpha: float = Field(default=0.2, ge=0)
    beta: float = Field(default=0.8, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    loss: DistillationLoss = "full"
    """What the student sees of the teacher's distribution, see `budwood.training.teacher`: all of it (`full`), its top
    `top_k` entries and one bucket for all others (`topk_tail`), tokens drawn from it (`sampled`), or its top `top_k`
    renormalised (`topk_renorm`: the paper's way; biased)."""
    divergence: Divergence = "forward"
    """`reverse` and `jensen_shannon` need every entry of both sides: `loss: full`."""
    top_k: int = Field(default=1024, ge=1)
    num_samples: int = Field(default=64, ge=1, le=255)
    """Draws per token, with replacement."""
    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of the squared distance between the layers' inputs of student and teacher at the start of training."""
    hidden_share: float = Field(default=0.3, gt=0, le=1)
    """Share of training in which that weight falls to zero."""
    teacher: Literal["live", "cached"] = "live"
    """`cached`: read what a teacher has said once, for all students that read the same sequences."""
    teacher_device: str = "same"
    """`same` as the student's, or a device of the teacher's own, such as `cuda:1`."""
    compile_teacher: bool = False
    compile_loss: Literal["auto", "on", "off"] = "auto"
    """Whether torch.compile makes the loss: `auto` where it works here, and says so where it does not."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.divergence != "forward" and self.loss != "full":
            raise ValueError(f"divergence={self.divergence!r} needs loss='full', got {self.loss!r}: it has all entries")
        if self.teacher == "cached" and self.loss == "full":
            raise ValueError(
                "teacher='cached' needs a loss of few entries (topk_tail, sampled, topk_renorm), got 'full'"
            )
        if self.teacher == "cached" and self.hidden_weight:
            raise ValueError(f"hidden_weight={self.hidden_weight} needs teacher='live': a cache holds no hidden states")
        return self

    @property
    def weights(self) -> DistillationWeights:
        """The settings as the loss takes them."""
        return DistillationWeights(self.alpha, self.beta, self.temperature, self.divergence)


class TrainingJob(Strict):
    """One arm: which model, from which start, on what, towards which objective."""

    arm: str
    """Names the run's metrics."""
    model_folder: Path
    """Checkpoint that gives the architecture, and the weights unless they are random."""
    initialisation: Initialisation
    """`random` draws the weights by the family's own scheme, with standard rotary embeddings."""
    teacher_folder: Path
    corpus_folder: Path
    output_folder: Path
    """Belongs to this run alone: checkpoints, curve and result."""
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
