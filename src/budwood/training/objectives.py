"""What a training run minimises; pretraining and distillation differ only in this value.

Shape legend: B sequences of a batch, T predicted tokens, E student width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from budwood.models.device import Compute
from budwood.models.losses import cap_of, scaled
from budwood.training.job import TrainingJob
from budwood.training.losses import Logits, Target, chunked_loss, inductor_works
from budwood.training.settings import PRETRAINING, DistillationWeights, Engine
from budwood.training.teacher import Teacher, open_teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Input of a student and its teacher."""

    input_ids: Tensor
    """[B, T]."""
    labels: Tensor
    """[B, T] next tokens."""
    starts: Tensor | None = None
    """[B] where the sequences begin in the token file."""


def logits_from(model: PreTrainedModel, hidden: Tensor) -> Logits:
    """Return a model's logits of [B, T, E] last hidden states."""
    return Logits(scaled(model, hidden.flatten(0, 1)), model.get_output_embeddings().weight, cap_of(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Loss of a batch, summed over its tokens: cross-entropy with the text, and a divergence from a teacher."""

    weights: DistillationWeights = PRETRAINING
    teacher: Teacher | None = None
    """With the student's tokenizer; without one only the text counts."""
    compiled: bool = False
    """Whether the loss is compiled."""

    def __call__(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the loss, summed over the tokens of a batch.

        Of a teacher, hidden states [B, T, F] or a few entries of each token stay in memory, never all logits.

        Args:
            model: the student.
            batch: ids and labels [B, T]; with a teacher, also [B] where the sequences begin.
        """
        target: Target | None = None
        if self.teacher is not None:
            assert batch.starts is not None, "a teacher reads sequences by where they begin"
            target = self.teacher(batch.input_ids, batch.starts)
        output = model.base_model(input_ids=batch.input_ids, use_cache=False)
        student = logits_from(model, output.last_hidden_state)
        return chunked_loss(student, batch.labels.flatten(), target, self.weights, compiled=self.compiled)


def objective_of(job: TrainingJob, compute: Compute) -> Objective:
    """Return what a job minimises.

    Args:
        job: where it has a teacher, `budwood.training.checks.check_teacher` has passed it.
        compute: device and precision of the student.
    """
    settings, compiled = job.distillation, compiles_loss(job.engine, compute)
    if settings is None:
        return Objective(compiled=compiled)
    return Objective(weights=settings.weights, teacher=open_teacher(job, compute), compiled=compiled)


def compiles_loss(engine: Engine, compute: Compute) -> bool:
    """Return whether the loss is compiled; `auto` tries whether that works here, and logs why not."""
    if engine.compile_loss == "auto":
        return inductor_works(compute.device.type)
    return engine.compile_loss == "on"
