"""What a teacher takes that is read layer by layer: the plan against the tensors that are alive, and sums by hand."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations, islice
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from living import Living
from strategies import pythia
from transformers import AutoConfig, AutoModelForCausalLM

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.proportions import in_small
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models import export
from budwood.models.certificate import prove
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.models.offload import offloaded
from budwood.models.prompts import prompt_lengths, record_prompts
from budwood.models.teacher import byte_tokenizer
from budwood.reporting import streaming
from budwood.reporting.memory import forward_memory
from budwood.reporting.streaming import TextReading, certificate_memory, cut_memory, intake_memory, stream_memory
from budwood.study.gates import CheckOrder
from budwood.study.planned import order_gate_memory
from budwood.study.stage import Work, Workspace, no_tracking
from budwood.study.text import Windows
from budwood.subnet.compensate import cut_out, write_cut
from budwood.subnet.elimination import LayerTrials
from budwood.subnet.importance import importance_in
from budwood.subnet.intake import verify_teacher
from budwood.subnet.moments import teacher_stream
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Compensation, Ordering

CPU, SEQUENCES, LENGTH, BATCH = torch.device("cpu"), 8, 64, 4
WIDE, MANY_WORDS = {"hidden_size": 128, "vocab_size": 600}, {"hidden_size": 96, "vocab_size": 4000}


def written_teacher(folder: Path, family: str, num_layers: int, sizes: Mapping[str, int], *, tied: bool) -> Path:
    """Write a random teacher with heads of 32 dimensions and four neurons a channel."""
    width = sizes["hidden_size"]
    shape = {"intermediate_size": 4 * width, "num_attention_heads": width // 32, "num_hidden_layers": num_layers}
    config = AutoConfig.for_model(family, **sizes, **shape, tie_word_embeddings=tied, initializer_range=0.1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def half_of(teacher: Architecture) -> Selection:
    layer = replace(teacher.layers[0], intermediate_size=teacher.layers[0].intermediate_size // 2)
    depth, width = teacher.num_hidden_layers * 3 // 4, teacher.hidden_size * 3 // 4
    return Selection.prefix(replace(teacher, hidden_size=width, layers=(layer,) * depth))


def reading_of(size: int) -> TextReading:
    return TextReading(num_sequences=SEQUENCES, length=LENGTH, batch_size=BATCH, size=size)


def cut(teacher: Path, target: Path, settings: Compensation | None) -> tuple[int, int]:
    """Cut half of a teacher, write and prove it; return the peak of living tensors, and the plan's."""
    windows = torch.randint(0, 256, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0))
    ordered, text = open_ordered(teacher, Ordering(ordering="magnitude")), windows[0]
    with Living() as living:
        parts = cut_out(ordered, half_of(ordered.ranked), windows, settings, batch_size=BATCH)
        _, expected = write_cut(parts, teacher, target, text, CPU)
        prove(expected, target, parts.architecture, ParameterBin(1, 10**9), text)
    return living.peak, cut_memory(ordered.architecture, parts.architecture, settings, reading_of(2)).total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "tied", "sizes", "settings"),
    [
        ("gpt_neox", False, WIDE, Compensation()),
        ("gpt_neox", False, MANY_WORDS, Compensation()),
        ("llama", True, WIDE, Compensation(refit=True)),
        ("llama", True, MANY_WORDS, Compensation(layers=False)),
        ("llama", False, WIDE, None),
    ],
    ids=["wide", "many words", "refitted", "tied", "plain"],
)
def test_a_cut_takes_what_is_planned(
    family: str, sizes: Mapping[str, int], settings: Compensation | None, tmp_path: Path, *, tied: bool
) -> None:
    """Constants, indices and statistics are left out of the plan: a few hundredths of these tiny models."""
    teacher = written_teacher(tmp_path / "teacher", family, 4, sizes, tied=tied)
    living, planned = cut(teacher, tmp_path / "child", settings)
    assert planned == pytest.approx(living, rel=0.1)


@pytest.mark.slow
def test_a_cut_of_twice_the_depth_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (export, streaming):
        monkeypatch.setattr(module, "WEIGHT_SHARD_BYTES", 300_000)
    taken = []
    for depth in (4, 8):
        teacher = written_teacher(tmp_path / f"teacher-{depth}", "gpt_neox", depth, WIDE, tied=False)
        taken.append(cut(teacher, tmp_path / f"child-{depth}", Compensation()))
    (living, planned), (deep_living, deep_planned) = taken
    assert deep_living < 1.04 * living
    assert deep_planned < 1.04 * planned
    assert deep_planned == pytest.approx(deep_living, rel=0.1)


@pytest.mark.parametrize(
    ("family", "sizes", "tied", "num_trials"),
    [("gpt_neox", WIDE, False, 0), ("llama", MANY_WORDS, True, 0), ("llama", MANY_WORDS, False, 3)],
    ids=["wide", "many words", "trials"],
)
def test_reading_takes_what_is_planned(
    family: str, sizes: Mapping[str, int], num_trials: int, tmp_path: Path, *, tied: bool
) -> None:
    folder = written_teacher(tmp_path / "teacher", family, 4, sizes, tied=tied)
    teacher = open_ordered(folder, Ordering(ordering="magnitude"))
    windows = torch.randint(0, 256, (SEQUENCES, LENGTH + bool(num_trials)))
    with Living() as living:
        if num_trials:
            trials = list(islice(combinations(range(4), 3), num_trials))
            list(LayerTrials(teacher=teacher, windows=windows, batch_size=BATCH)(trials))
        else:
            importance_in(teacher_stream(teacher, windows.split(BATCH)), teacher.architecture)
    planned = stream_memory(teacher.architecture, reading_of(2), num_trials=num_trials).total
    assert planned == pytest.approx(living.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "sizes", "tied"),
    [("gpt_neox", WIDE, False), ("llama", MANY_WORDS, False), ("llama", MANY_WORDS, True)],
    ids=["wide", "many words", "tied"],
)
def test_taking_a_teacher_in_takes_what_is_planned_at_any_depth(
    family: str, sizes: Mapping[str, int], tmp_path: Path, *, tied: bool
) -> None:
    for depth in (3, 6):
        folder = written_teacher(tmp_path / f"teacher-{depth}", family, depth, sizes, tied=tied)
        teacher = Checkpoint.open(folder)
        with Living() as living:
            verify_teacher(teacher, teacher.load_tokenizer())
        assert intake_memory(teacher.architecture, 2).total == pytest.approx(living.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("sizes", [WIDE, MANY_WORDS], ids=["wide", "many words"])
def test_prompts_take_what_is_planned_at_any_depth(sizes: Mapping[str, int], tmp_path: Path, *, tied: bool) -> None:
    for depth in (3, 6):
        folder = written_teacher(tmp_path / f"child-{depth}", "llama", depth, sizes, tied=tied)
        child = Checkpoint.open(folder)
        with Living() as living, offloaded(child) as model:
            lengths = [len(prompt.input_ids) for prompt in record_prompts(model)]
        planned = certificate_memory(child.architecture, 2, lengths, whole=False)
        assert planned.total == pytest.approx(living.peak, rel=0.1)


@pytest.mark.slow
def test_the_check_of_an_order_takes_what_is_planned(tmp_path: Path) -> None:
    """The whole teacher, and of what is cut the part that is copied."""
    folder = written_teacher(tmp_path, "llama", 4, WIDE, tied=False)
    check = CheckOrder(
        teacher=Checkpoint.open(folder),
        importance={},
        ordering=Ordering(ordering="magnitude"),
        windows=Windows(tokens=None, split="selection", length=LENGTH, count=BATCH),  # type: ignore[arg-type]  # not read
        compute=Compute(CPU, "float32"),
        batch_size=BATCH,
    )
    teacher, windows = check.teacher.architecture, torch.randint(0, 256, (BATCH, LENGTH + 1))
    with Living() as living, patch.object(Windows, "read", lambda _: windows):
        check.run(Work(folder=tmp_path, workspace=Workspace(folder=tmp_path), track=no_tracking))
    reading = partial(forward_memory, num_sequences=BATCH, length=LENGTH, precision="float32", teacher=teacher)
    planned = order_gate_memory(teacher, reading)
    assert planned.teacher == 4 * num_parameters(teacher)
    assert planned.total == pytest.approx(living.peak, rel=0.1)


def test_a_stream_by_hand() -> None:
    """Pythia-1B: a layer, and what its MLP reads; before, its embedding twice; for trials, more streams."""
    teacher, states = pythia(50304, 16, 2048, 8), 64 * 512 * 2048 * 2
    layer = 12 * 2048**2 + 13 * 2048
    few = stream_memory(teacher, TextReading(num_sequences=1, length=8, batch_size=1, size=2))
    assert (few.weights, few.total) == (4 * 50304 * 2048, 4 * 50304 * 2048)
    reading = TextReading(num_sequences=64, length=512, batch_size=16, size=2)
    many = stream_memory(teacher, reading)
    assert many.weights == 2 * layer
    assert many.activations == 2 * states + 16 * 512 * (2 * (3 * 2048 + 8192) + 2 * 4 * 8192)
    trials = stream_memory(teacher, reading, num_trials=16)
    assert trials.weights == many.weights
    assert trials.activations == 17 * states + 16 * 512 * 2 * (3 * 2048 + 2 * 8192)


def test_a_cut_by_hand() -> None:
    """Pythia-1B of which half the neurons and three quarters of the channels are kept, in bfloat16.

    Beside the shard that waits it takes most to read a layer, with its moments, in which the neurons of a batch are
    there in float32 too. With few tokens it takes most to correct the neurons: their moment, what is kept of it, and
    what is to be predicted.
    """
    teacher, k, n = pythia(50304, 16, 2048, 8), 4096, 8192
    child = replace(teacher, hidden_size=1536, layers=tuple(replace(e, intermediate_size=k) for e in teacher.layers))
    layer = 4 * 1536 * 2048 + 2 * 1536 * 4096 + 3 * 2048 + 4096 + 6 * 1536
    waiting = 2 * (50304 * 1536 + 7 * layer)
    assert waiting < 2**29 < waiting + 2 * layer
    many = TextReading(num_sequences=64, length=512, batch_size=4, size=2)
    memory, states = cut_memory(teacher, child, Compensation(), many), 64 * 512 * 2048 * 2
    assert memory.weights == waiting + 2 * (12 * 2048**2 + 13 * 2048)
    assert memory.activations == 2 * states + 4 * 512 * (2 * (3 * 2048 + n) + 4 * n)
    assert memory.moments == 4 * (n**2 + 2 * 2048**2)
    few = TextReading(num_sequences=4, length=128, batch_size=4, size=2)
    memory = cut_memory(teacher, child, Compensation(), few)
    assert (memory.weights, memory.moments) == (waiting + 2 * layer, 4 * n**2 + 4 * k * n)
    precise = cut_memory(teacher, child, Compensation(neuron_ridge=1e-3), few)
    assert precise.moments == 2 * 8 * k * n + 4 * k * (n - k)


@pytest.mark.parametrize(("sizes", "gibibytes"), [((50432, 32, 4096, 32), 14), ((50688, 36, 5120, 40), 20)])
def test_large_teachers_are_cut_on_ordinary_machines(sizes: tuple[int, int, int, int], gibibytes: int) -> None:
    """Pythia-6.9B and 12B, whatever the child keeps, and whatever the depth."""
    teacher, settings = pythia(*sizes), Compensation(refit=True)
    assert intake_memory(teacher, 2).total < 3 * 2**30
    half = certificate_memory(in_small(teacher, num_parameters(teacher) // 2), 2, prompt_lengths(2048), whole=True)
    assert half.total < 12 * 2**30
    reading = TextReading(num_sequences=64, length=512, batch_size=16, size=2)
    for share in (0.25, 0.5, 0.75, 0.9):
        child = in_small(teacher, share * num_parameters(teacher))
        assert cut_memory(teacher, child, settings, reading).total < gibibytes * 2**30
        lengths = prompt_lengths(2048)
        assert certificate_memory(child, 2, lengths, whole=False).total < 4 * 2**30
        deep, deeper = teacher.with_layers(teacher.layers * 2), child.with_layers(child.layers * 2)
        assert stream_memory(deep, reading) == stream_memory(teacher, reading)
        assert cut_memory(deep, deeper, settings, reading).total < gibibytes * 2**30
