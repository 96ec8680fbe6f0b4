"""Memory estimates, against what autograd keeps of real models and against sums worked by hand."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from strategies import SMOLLM2_135M, pythia
from teachers import architecture_of, tiny_teacher

from budwood.arch.count import num_parameters
from budwood.reporting.memory import (
    DtypeName,
    activation_bytes_per_token,
    forward_memory,
    training_memory,
)
from budwood.training.objectives import Objective
from budwood.training.student import Student

BATCH, LENGTH = 4, 64


def kept_bytes(family: str, precision: DtypeName, **sizes: Any) -> tuple[int, int]:
    """Return what autograd keeps of a micro-batch beside parameters, their copies and the head, and the estimate."""
    model = tiny_teacher(family, tied=True, **sizes)
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 97, (BATCH, LENGTH + 1))
    student = Student(model, Objective())
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        student(ids[:, :-1], ids[:, 1:])
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return measured, BATCH * LENGTH * activation_bytes_per_token(architecture_of(model), precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "family", ["gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "starcoder2"]
)
def test_activations_are_what_autograd_keeps(family: str, precision: DtypeName) -> None:
    """Ids, rotary tables and the norms' scales are left out of the estimate: a few hundredths of these tiny models."""
    # A mask of windows is kept too.
    full = {"sliding_window": None, "use_sliding_window": False}
    measured, estimated = kept_bytes(family, precision, intermediate_size=160, hidden_size=96, **full)
    assert estimated == pytest.approx(measured, rel=0.06)


def test_activations_of_a_llama_by_hand() -> None:
    """30 layers: 24 x 576 + 8 x (576 + 192) + 4 x 9 + 16 x 1536 bytes; the last norm and the head 12 x 576."""
    layer = 24 * 576 + 8 * (576 + 192) + 4 * 9 + 16 * 1536
    assert activation_bytes_per_token(SMOLLM2_135M, "float32") == 30 * layer + 12 * 576


def test_training_by_hand() -> None:
    """Pythia-1B: 16 bytes a parameter and 2 for bfloat16 copies; a 6.9B teacher adds 2 bytes of each of its own."""
    student, teacher = pythia(50304, 16, 2048, 8), pythia(50432, 32, 4096, 32)
    alone = training_memory(student, num_tokens=2048, precision="bfloat16")
    assert alone.weights + alone.gradients + alone.optimizer == 18 * 1_011_781_632
    assert alone.total == sum(asdict(alone).values())
    taught = training_memory(student, num_tokens=2048, precision="bfloat16", teacher=teacher)
    assert 2 * 6_857_302_016 < taught.teacher < 2.2 * 6_857_302_016
    assert alone.total + taught.teacher < taught.total
    twice = training_memory(student, num_tokens=4096, precision="bfloat16")
    assert twice.activations == 2 * alone.activations
    assert twice.weights == alone.weights


def test_a_search_holds_teacher_and_candidate() -> None:
    teacher = pythia(50432, 32, 4096, 32)
    child = pythia(50432, 16, 2048, 8)
    memory = forward_memory(child, num_sequences=4, length=512, precision="bfloat16", teacher=teacher)
    assert memory.teacher == 2 * num_parameters(teacher)
    assert memory.weights == 2 * num_parameters(child)
    assert memory.gradients == memory.optimizer == 0
