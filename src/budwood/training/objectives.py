"""What a training run minimises; pretraining and distillation differ only in this value.

Shape legend: B sequences of a batch, T predicted tokens, E student width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from budwood.models.device import Compute
from budwood.models.losses import cap_of, scaled
from budwood.training.job import TrainingJob
from budwood.training.losses import Logits, Target, chunked_loss, hidden_distance, inductor_works
from budwood.training.settings import PRETRAINING, DistillationWeights, Engine
from budwood.training.teacher import SharedStates, Teacher, layer_inputs, open_teacher, shared_states


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Input of a student and its teacher."""

    input_ids: Tensor
    """[B, T]."""
    labels: Tensor
    """[B, T] next tokens."""
    starts: Tensor | None = None
    """[B] where the sequences begin in the token file."""
    progress: Tensor | None = None
    """[B] share of the run before a sequence."""


def logits_from(model: PreTrainedModel, hidden: Tensor) -> Logits:
    """Return a model's logits of [B, T, E] last hidden states."""
    return Logits(scaled(model, hidden.flatten(0, 1)), model.get_output_embeddings().weight, cap_of(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenStates:
    """Pull of a student's residual stream towards its teacher's, weaker from step to step."""

    shared: SharedStates
    weight: float
    """At the start of training."""
    share: float
    """Of training, in which the weight falls linearly to zero."""

    def __call__(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the weighted distance of the layers' inputs, summed over tokens.

        Args:
            student: [B, T, E] for every layer of the student.
            teacher: [B, T, F] for every layer of the teacher.
            progress: [B] share of the run before a sequence.
        """
        channels = torch.tensor(self.shared.channels, device=teacher[0].device)
        distances = [
            hidden_distance(own, teacher[layer][..., channels].to(own.device))
            for own, layer in zip(student, self.shared.layers, strict=True)
        ]
        annealed = self.weight * (1 - progress / self.share).clamp_min(0)
        return (annealed * torch.stack(distances).mean(0)).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Loss of a batch, summed over its tokens: cross-entropy with the text, and a divergence from a teacher."""

    weights: DistillationWeights = PRETRAINING
    teacher: Teacher | None = None
    """With the student's tokenizer; without one only the text counts."""
    compiled: bool = False
    """Whether the loss is compiled."""
    states: HiddenStates | None = None

    def __call__(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Return the loss, summed over the tokens of a batch.

        Of a teacher, hidden states [B, T, F] or a few entries of each token stay in memory, never all logits.

        Args:
            model: the student.
            batch: ids and labels [B, T]; with a teacher, also [B] where the sequences begin.
        """
        target: Target | None = None
        teacher_states: tuple[Tensor, ...] = ()
        if self.teacher is not None:
            assert batch.starts is not None, "a teacher reads sequences by where they begin"
            target, teacher_states = self.teacher(batch.input_ids, batch.starts)
        output = model.base_model(
            input_ids=batch.input_ids, use_cache=False, output_hidden_states=self.states is not None
        )
        student = logits_from(model, output.last_hidden_state)
        loss = chunked_loss(student, batch.labels.flatten(), target, self.weights, compiled=self.compiled)
        if self.states is not None:
            assert batch.progress is not None, "an annealed loss depends on the progress of the run"
            loss = loss + self.states(layer_inputs(output), teacher_states, batch.progress)
        return loss


def objective_of(job: TrainingJob, compute: Compute) -> Objective:
    """Return what a job minimises.

    Args:
        job: where it has a teacher, `budwood.training.checks.check_teacher` has passed it.
        compute: device and precision of the student.
    """
    settings, compiled, states = job.distillation, compiles_loss(job.engine, compute), None
    if settings is None:
        return Objective(compiled=compiled)
    if settings.hidden_weight:
        states = HiddenStates(shared=shared_states(job), weight=settings.hidden_weight, share=settings.hidden_share)
    return Objective(weights=settings.weights, teacher=open_teacher(job, compute), compiled=compiled, states=states)


def compiles_loss(engine: Engine, compute: Compute) -> bool:
    """Return whether the loss is compiled; `auto` tries whether that works here, and logs why not."""
    if engine.compile_loss == "auto":
        return inductor_works(compute.device.type)
    return engine.compile_loss == "on"
