"""Memory estimates, against what autograd keeps of real models and against sums worked by hand."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from living import Living
from strategies import SMOLLM2_135M, pythia
from teachers import FULL, architecture_of, tiny_teacher

from budwood.arch.count import num_parameters
from budwood.arch.family import MODEL_TYPES, family_of
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.settings import EfficiencySettings
from budwood.reporting.memory import (
    DtypeName,
    activation_bytes_per_token,
    forward_memory,
    timing_memory,
    training_memory,
)
from budwood.training.objectives import Objective
from budwood.training.student import Student

BATCH, LENGTH = 4, 64


def kept_bytes(family: str, precision: DtypeName, length: int = LENGTH, **sizes: Any) -> tuple[int, int]:
    """Return what autograd keeps of a micro-batch beside parameters, their copies and the head, and the estimate."""
    model = tiny_teacher(family, tied=True, **sizes)
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 97, (BATCH, length + 1))
    student = Student(model, Objective())
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        student(ids[:, :-1], ids[:, 1:])
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return measured, BATCH * length * activation_bytes_per_token(architecture_of(model), precision, context=length)


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [16, LENGTH])
def test_scores_that_are_formed_are_kept(length: int, precision: DtypeName) -> None:
    measured, estimated = kept_bytes("gemma2", precision, length, intermediate_size=160, sliding_window=128)
    assert estimated == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_the_table_knows_where_scores_are_formed(family: str) -> None:
    model = tiny_teacher(family, tied=True, attn_implementation=None)
    assert (model.config._attn_implementation == "eager") == family_of(family).forms_scores


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_reading_with_scores_takes_no_more_than_is_planned(precision: DtypeName, dtype: torch.dtype) -> None:
    """Weights with what is alive beside them; no logits are made here."""
    model = tiny_teacher("gemma2", tied=True, sliding_window=128).to(dtype)
    planned = forward_memory(architecture_of(model), num_sequences=BATCH, length=LENGTH, precision=precision)
    with torch.no_grad(), Living() as living:
        model.base_model(input_ids=torch.ones(BATCH, LENGTH, dtype=torch.long), use_cache=False)
    assert living.peak < planned.weights + planned.activations < 1.1 * living.peak


def test_activations_of_a_llama_by_hand() -> None:
    """30 layers: 24 x 576 + 8 x (576 + 192) + 4 x 9 + 16 x 1536 bytes; the last norm and the head 12 x 576."""
    layer = 24 * 576 + 8 * (576 + 192) + 4 * 9 + 16 * 1536
    assert activation_bytes_per_token(SMOLLM2_135M, "float32", context=64) == 30 * layer + 12 * 576


def test_training_by_hand() -> None:
    """Pythia-1B: 16 bytes a parameter and 2 for bfloat16 copies; a 6.9B teacher adds 2 bytes of each of its own."""
    student, teacher = pythia(50304, 16, 2048, 8), pythia(50432, 32, 4096, 32)
    alone = training_memory(student, num_tokens=2048, length=1024, precision="bfloat16")
    assert alone.weights + alone.gradients + alone.optimizer == 18 * 1_011_781_632
    assert alone.total == sum(asdict(alone).values())
    taught = training_memory(student, num_tokens=2048, length=1024, precision="bfloat16", teacher=teacher)
    assert 2 * 6_857_302_016 < taught.teacher < 2.2 * 6_857_302_016
    assert alone.total + taught.teacher < taught.total
    twice = training_memory(student, num_tokens=4096, length=1024, precision="bfloat16")
    assert twice.activations == 2 * alone.activations
    assert twice.weights == alone.weights


def test_models_that_are_timed_in_turns_are_there_together() -> None:
    """Two prompts of 96 tokens, then eight more with the cache of the larger model."""
    settings = EfficiencySettings(prompt_tokens=96, new_tokens=8, batch_size=2, repeats=1, warmups=0)
    models = [tiny_teacher("llama", tied=True, num_hidden_layers=depth) for depth in (2, 6)]
    subjects = [Subject(model, architecture_of(model)) for model in models]
    weights = [4 * num_parameters(subject.architecture) for subject in subjects]
    with Living() as living:
        measure_efficiency(dict(zip("ab", subjects, strict=True)), settings, FULL)
    planned = timing_memory(
        [subject.architecture for subject in subjects], num_sequences=2, length=96, new_tokens=8, precision="float32"
    )
    assert (planned.weights, planned.teacher) == tuple(weights)
    assert living.peak < planned.total < 1.25 * living.peak


def test_a_search_holds_teacher_and_candidate() -> None:
    teacher = pythia(50432, 32, 4096, 32)
    child = pythia(50432, 16, 2048, 8)
    memory = forward_memory(child, num_sequences=4, length=512, precision="bfloat16", teacher=teacher)
    assert memory.teacher == 2 * num_parameters(teacher)
    assert memory.weights == 2 * num_parameters(child)
    assert memory.gradients == memory.optimizer == 0
