"""What a search minimises: the candidate's loss, its distance to the teacher, or a function of the user's own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.losses import Measure, final_states, logits_of, next_token_losses
from budwood.search.fitness import DIVERGENCE, PERPLEXITY, load_function
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import OrderedTeacher

# Shape legend: N sequences, T predicted tokens of a sequence, E hidden size, V vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """A measure, and what a search needs to know about it."""

    measure: Measure
    runs_once: bool = True
    """Whether it runs the model's layers once, on all of the batch: only then can first layers be shared."""
    flops_per_token: float = 0.0
    """Beside the candidate's own forward pass."""


def open_fitness(name: str, teacher: OrderedTeacher) -> Fitness:
    """Return a fitness that reads text.

    Args:
        name: `perplexity`, `kl`, or the dotted path of a `Measure`, such as `my_package.my_module.my_function`.
        teacher: what candidates are compared with by `kl`, its weights in memory.

    Raises:
        ValueError: there is no such function.
    """
    if name == PERPLEXITY:
        return Fitness(measure=next_token_losses)
    if name == DIVERGENCE:
        return Fitness(
            measure=TeacherDivergence(teacher), flops_per_token=fitness_flops_per_token(name, teacher.architecture)
        )
    return Fitness(measure=load_function(name), runs_once=False)


def fitness_flops_per_token(name: str, teacher: Architecture) -> float:
    """Return the FLOPs of a fitness beside the candidate's own pass: of `kl` the teacher's head, which runs again."""
    return 2.0 * teacher.vocab_size * teacher.hidden_size if name == DIVERGENCE else 0.0


class TeacherDivergence:
    """Kullback-Leibler divergence of a candidate's predictions from the teacher's.

    Differences between candidates are clearer than in the loss on the text: half as many tokens show as much. The
    teacher reads every batch once; its final states are kept, [N, T, E] for each, and its head runs again.
    """

    def __init__(self, teacher: OrderedTeacher) -> None:
        """Build the whole teacher."""
        self._model = extract_child(teacher, Selection.prefix(teacher.ranked))
        nn.Module.to(self._model, teacher.weights[teacher.family.final_norm.weight].device)
        self._states: dict[bytes, Tensor] = {}

    def __call__(self, model: PreTrainedModel, windows: Tensor) -> Tensor:
        """Return [N] the mean of KL(teacher || candidate) over the positions of every sequence, nats."""
        batch = windows.cpu().numpy().tobytes()
        if batch not in self._states:
            self._states[batch] = final_states(self._model, windows)
        pairs = zip(final_states(model, windows), self._states[batch], strict=True)
        return torch.stack([self._divergence(model, student, teacher) for student, teacher in pairs])

    def _divergence(self, model: PreTrainedModel, student: Tensor, teacher: Tensor) -> Tensor:
        predicted, wanted = (
            logits_of(owner, states).log_softmax(-1) for owner, states in ((model, student), (self._model, teacher))
        )
        return functional.kl_div(predicted, wanted, reduction="batchmean", log_target=True)
