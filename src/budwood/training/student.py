"""The model that is trained: its forward pass returns the loss, so that every engine sees one module.

Nothing is dropped at random, whatever the model's configuration says: the loss of a batch is a function of the weights,
so that micro-batches, devices and the teacher beside a student change nothing of it.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from budwood.models.losses import sequence_losses
from budwood.training.objectives import Batch, Objective


class Student(nn.Module):
    """A causal language model with its objective inside."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        """Wrap a model, and leave no dropout in it; its configuration stays as it is.

        Args:
            model: the student; `model` is its only registered child, so a teacher is neither trained nor saved.
            objective: the summed loss of a batch.
        """
        super().__init__()
        self.model = without_dropout(model)
        self.config = model.config
        self._objective = (objective,)
        tied = model._tied_weights_keys or {} if model.config.tie_word_embeddings else {}  # noqa: SLF001
        # The Trainer reads this when it resumes: names that checkpoints leave out.
        self._keys_to_ignore_on_save = [f"model.{name}" for name in tied]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights without the aliases of tied ones, which safetensors refuses."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if not name.endswith(tuple(self._keys_to_ignore_on_save))}

    def tie_weights(self) -> None:
        """Give tied weights one tensor; the Trainer calls this after it has loaded a checkpoint without the aliases."""
        self.model.tie_weights()

    def heldout_losses(self, windows: Tensor) -> Tensor:
        """Return [N] the cross-entropy per token of every window.

        A method, so that FSDP can gather the weights around it.

        Args:
            windows: [N, T + 1] token ids.
        """
        return sequence_losses(self.model, windows)

    def forward(
        self,
        input_ids: Tensor,
        shift_labels: Tensor,
        starts: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return the loss per token.

        Args:
            input_ids: [B, T].
            shift_labels: [B, T] next tokens; this name makes the Trainer count all of them.
            starts: [B] where the sequences begin in the token file.
            num_items_in_batch: tokens of the whole optimiser step, over all its micro-batches.
        """
        (objective,) = self._objective
        batch = Batch(input_ids=input_ids, labels=shift_labels, starts=starts)
        total = objective(self.model, batch)
        return {"loss": total / (shift_labels.numel() if num_items_in_batch is None else num_items_in_batch)}


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout rate of a model's modules to zero, and return the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Attention, and some MLPs and decoders, hand a rate of their own to a function.
        for name in vars(module):
            if name.endswith("_dropout"):
                setattr(module, name, 0.0)
    return model
