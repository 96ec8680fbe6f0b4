"""What a search takes, against the bytes of all tensors that are alive while candidates are evaluated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from living import Living
from teachers import FULL, HALF, architecture_of, select, tiny_teacher, weights_of

from budwood.arch.selection import Selection
from budwood.models.device import Compute
from budwood.reporting.memory import Memory, forward_memory
from budwood.reporting.searching import Evaluating, search_memory
from budwood.reporting.streaming import TextReading
from budwood.subnet.compensate import possible_gaps, store_moments
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.fitness import open_fitness
from budwood.subnet.ordering import OrderedTeacher, order_teacher
from budwood.subnet.settings import Compensation, Ordering

pytestmark = pytest.mark.slow

BATCH, LENGTH, NUM = 4, 64, 32


def teacher_of(family: str, compute: Compute, **sizes: int) -> OrderedTeacher:
    model = tiny_teacher(family, tied=True, **sizes)
    heads = ("lm_head", "embed_out")
    weights = {name: weight for name, weight in weights_of(model).items() if not name.startswith(heads)}
    architecture = architecture_of(model)
    ordered = order_teacher(weights, model.config.to_dict(), architecture, Ordering(ordering="native"))
    return ordered.materialise(compute)


def mutants(depth: int, queries: int) -> list[Selection]:
    """Return a candidate, and for every layer one that changes it alone."""
    base = [(3, queries, 16, 32)] * depth
    changed = [[*base[:place], (3, queries, 16, 24), *base[place + 1 :]] for place in range(depth)]
    return [select(48, list(range(depth)), *sizes) for sizes in (base, *changed)]


def planned_for(teacher: OrderedTeacher, child: Selection, num_sequences: int, size: int, **how: object) -> Memory:
    reading = TextReading(num_sequences=num_sequences, length=LENGTH, batch_size=BATCH, size=size)
    whole, precision = teacher.architecture, "float32" if size == 4 else "bfloat16"
    candidate = child.architecture(whole)
    read = forward_memory(candidate, num_sequences=BATCH, length=LENGTH, precision=precision, teacher=whole)
    return search_memory(read, candidate, whole, Evaluating(reading=reading, **how))


@pytest.mark.parametrize(("depth", "compute", "size"), [(4, HALF, 2), (10, FULL, 4)])
def test_shared_states_are_planned(depth: int, compute: Compute, size: int) -> None:
    """Ten layers have more depths than are held."""
    teacher, candidates = teacher_of("llama", compute, num_hidden_layers=depth), mutants(depth, 2)
    windows = torch.randint(1, 97, (NUM, LENGTH + 1))
    with Living() as living:
        list(SubnetEvaluator(teacher=teacher, windows=windows, batch_size=BATCH)(candidates))
    planned = planned_for(teacher, candidates[0], NUM, size, num_together=len(candidates))
    assert living.peak < planned.total < 1.4 * living.peak
    alone = planned_for(teacher, candidates[0], NUM, size)
    assert planned.activations - alone.activations == min(depth - 1, 8) * NUM * LENGTH * 48 * size
    assert alone.total < living.peak


@pytest.mark.parametrize(("compute", "size"), [(FULL, 4), (HALF, 2)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt_neox", "llama", "phi3"])
def test_what_kl_keeps_of_the_teacher_is_planned(family: str, compute: Compute, size: int) -> None:
    teacher = teacher_of(family, compute, vocab_size=2000)
    child = select(40, [0, 1, 2], (3, 1 if family == "gpt_neox" else 2, 16, 24))
    windows = torch.randint(1, 97, (64, LENGTH + 1))
    with Living() as living:
        fitness = open_fitness("kl", teacher)
        list(SubnetEvaluator(teacher=teacher, windows=windows, batch_size=BATCH, fitness=fitness)([child]))
    planned = planned_for(teacher, child, 64, size, diverges=True)
    assert living.peak < planned.total < 1.35 * living.peak
    assert planned_for(teacher, child, 64, size).total < living.peak


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_corrections_of_candidates_are_planned(ridge: float, tmp_path: Path) -> None:
    """Half of 1,024 neurons; the moment of all is mapped from its file, and counted as if it were read."""
    teacher = teacher_of("llama", FULL, num_hidden_layers=2, intermediate_size=1024)
    settings = Compensation(norms=False, pairs=False, neuron_ridge=ridge)
    windows, child = torch.randint(1, 97, (8, LENGTH + 1)), select(40, [0, 1], (3, 2, 16, 512))
    gaps = possible_gaps(teacher, coarse=True)
    moments = store_moments(teacher, windows[:, :-1], settings, tmp_path, gaps=gaps)
    evaluator = SubnetEvaluator(teacher=teacher, windows=windows, batch_size=BATCH)
    with Living() as living:
        list(replace(evaluator, compensation=settings, moments=moments)([child]))
    planned = planned_for(teacher, child, 8, 4, compensation=settings)
    assert living.peak < planned.total < 1.6 * living.peak
    assert planned_for(teacher, child, 8, 4).total < 0.5 * living.peak
