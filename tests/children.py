"""Tiny teachers, in memory and on disk, and children of all kinds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from teachers import FULL, TEACHERS, VOCAB_SIZE, architecture_of, measure_importance, select, tiny_teacher
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_model, own_weights, read_architecture, save_checkpoint
from budwood.subnet.extract import extract_child
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering

Made = TypeVar("Made")


def _fine(layer: int, pairs: tuple[int, ...], neurons: tuple[int, ...]) -> LayerSelection:
    return LayerSelection(layer=layer, groups=(2, 0), queries=(0,), pairs=pairs, neurons=neurons)


SELECTIONS = {
    "uniform": select(32, [0, 1, 2], (2, 1, 8, 24)),
    "heads that do not divide": select(32, [0, 1], (3, 1, 12, 17)),
    "layer-wise": select(33, [0, 1, 2], (1, 1, 8, 40), (3, 1, 16, 7), (2, 1, 10, 21)),
    "fine": Selection(
        hidden=(40, 3, 17, 8, 30, 1, 22),
        layers=(_fine(3, (7, 0, 2), (5, 39, 2)), _fine(0, (1, 6), (0, 11, 30, 8))),
    ),
}
"""Children that every family has."""


Once = Callable[[str, object, Callable[[], Made]], Made]


@pytest.fixture(scope="session")
def once() -> Once:
    """Return a maker that makes a thing of a teacher once, whichever modules ask for it and in whatever order."""
    kept: dict[tuple[str, object], object] = {}

    def make(what: str, of: object, build: Callable[[], Made]) -> Made:
        if (what, of) not in kept:
            kept[what, of] = build()
        return kept[what, of]

    return make


@pytest.fixture(scope="session", params=["llama tied", "gpt_neox untied"])
def teacher(request: pytest.FixtureRequest, once: Once) -> PreTrainedModel:
    family, tied = TEACHERS[request.param]
    return once("teacher", request.param, lambda: tiny_teacher(family, tied=tied))


@pytest.fixture(scope="session")
def architecture(teacher: PreTrainedModel) -> Architecture:
    return architecture_of(teacher)


@pytest.fixture(scope="session")
def windows() -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (6, 25), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def importance(teacher: PreTrainedModel, architecture: Architecture, windows: torch.Tensor, once: Once) -> Importance:
    return once("importance", teacher, lambda: measure_importance(teacher, architecture, windows, batch_size=2))


@pytest.fixture(scope="session")
def orders(
    teacher: PreTrainedModel, teacher_folder: Path, importance: Importance, once: Once
) -> dict[tuple[str, str], OrderedTeacher]:
    """Return the teacher in every order, in memory, by `ordering` and `rope`."""

    def order() -> dict[tuple[str, str], OrderedTeacher]:
        orders = {}
        for ordering in ("activation", "magnitude", "native"):
            ordered = open_ordered(
                teacher_folder, Ordering(ordering=ordering, layer_score="change"), importance
            ).materialise(FULL)
            orders |= {(ordering, rope): replace(ordered, rope=rope) for rope in ("preserve", "rebuild")}
        return orders

    return once("orders", teacher, order)


@pytest.fixture(params=SELECTIONS)
def selection(request: pytest.FixtureRequest) -> Selection:
    return SELECTIONS[request.param]


@pytest.fixture
def child_architecture(selection: Selection, architecture: Architecture) -> Architecture:
    """Return the sizes of the selected child; its layers stand in the order in which they were taken."""
    return selection.architecture(architecture)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0")  # noqa: S106


@pytest.fixture(scope="session")
def teacher_folder(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory, once: Once
) -> Path:
    def write() -> Path:
        folder = tmp_path_factory.mktemp("teacher")
        teacher.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return once("folder", teacher, write)


@pytest.fixture(scope="session")
def own_folder(
    teacher_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory, once: Once
) -> Path:
    """Return a layer-wise export whose layers differ in all sizes and in their rotary embeddings."""
    return once("export", teacher_folder, lambda: _export(teacher_folder, tokenizer, tmp_path_factory.mktemp("own")))


def _export(teacher_folder: Path, tokenizer: PreTrainedTokenizerFast, target: Path) -> Path:
    parent = open_ordered(teacher_folder, Ordering(ordering="magnitude"))
    queries = parent.ranked.layers[0].heads_per_group
    layers = (
        _own(0, range(3), range(1), (0, 1, 3, 5, 7, 6), 30),
        _own(1, (0, 2), range(queries), range(8), 40),
        _own(3, (1, 2), range(1), (1, 2, 4, 7), 25),
    )
    child = own_weights(extract_child(parent, Selection(hidden=range(40), layers=layers)))
    return save_checkpoint(child, tokenizer, target / "child")


def _own(layer: int, groups: Indices, queries: range, pairs: Indices, neurons: int) -> LayerSelection:
    return LayerSelection(layer=layer, groups=groups, queries=queries, pairs=pairs, neurons=range(neurons))


@pytest.fixture(scope="session")
def own_teacher(own_folder: Path, windows: torch.Tensor, once: Once) -> OrderedTeacher:
    """Return the layer-wise export as a teacher of its own, ordered."""

    def order() -> OrderedTeacher:
        importance = measure_importance(load_model(own_folder, torch.float32), read_architecture(own_folder), windows)
        return open_ordered(own_folder, Ordering(layer_score="change"), importance).materialise(FULL)

    return once("own", own_folder, order)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
