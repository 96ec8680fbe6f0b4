"""What a training run minimises; pretraining and distillation differ in this value alone."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from budwood.training.losses import DistillationWeights, chunked_loss

# Shape legend: B sequences of a batch, T predicted tokens, E student width, V vocabulary.


class Objective(Protocol):
    """Loss of a batch, summed over its tokens."""

    def __call__(self, hidden: Tensor, head: Tensor, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss.

        Args:
            hidden: [B, T, E] the student's last hidden states.
            head: [V, E] the student's output weights.
            input_ids: [B, T].
            targets: [B, T] next tokens.
        """
        ...


@dataclass(frozen=True, slots=True)
class NextToken:
    """Cross-entropy with the text."""

    def __call__(self, hidden: Tensor, head: Tensor, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy."""
        del input_ids
        return chunked_loss(hidden.flatten(0, 1), head, targets.flatten())


@dataclass(frozen=True, slots=True)
class Distillation:
    """Cross-entropy with the text and forward KL from a live teacher over the full vocabulary."""

    teacher: PreTrainedModel
    """Frozen, in evaluation mode, with the student's tokenizer."""
    weights: DistillationWeights

    def __call__(self, hidden: Tensor, head: Tensor, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss; the teacher's hidden states, not its logits, live through the batch."""
        with torch.no_grad():
            states = self.teacher.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        teacher_head = self.teacher.get_output_embeddings().weight
        return chunked_loss(
            hidden.flatten(0, 1), head, targets.flatten(), (states.flatten(0, 1), teacher_head), self.weights
        )
