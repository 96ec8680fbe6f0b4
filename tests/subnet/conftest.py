"""Tiny teachers with grouped queries, whose random weights make every defect visible."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from budwood.arch.family import architecture_from_config
from budwood.arch.spec import Architecture, LayerSpec
from budwood.subnet.importance import Importance, measure_importance
from budwood.subnet.ordering import OrderedTeacher, order_teacher

VOCAB_SIZE = 97


def tiny_teacher(family: str, *, tied: bool) -> PreTrainedModel:
    """Return a model of 4 layers, 3 groups of 2 queries, with norm weights that are not all one."""
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        **({"sliding_window": None} if family == "mistral" else {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5)
    return model


def spec(groups: int, queries: int, head_dim: int, neurons: int) -> LayerSpec:
    return LayerSpec(
        num_attention_heads=groups * queries,
        num_key_value_heads=groups,
        head_dim=head_dim,
        intermediate_size=neurons,
    )


CHILDREN = {
    "uniform": (32, (spec(2, 2, 8, 24),) * 3),
    "heads that do not divide": (32, (spec(3, 1, 12, 17),) * 2),
    "layer-wise": (33, (spec(1, 2, 8, 40), spec(3, 1, 16, 7), spec(2, 2, 10, 21))),
}
"""Hidden size and layers, the most important layer first."""


TEACHERS = {"tied": ("llama", True), "untied": ("llama", False), "mistral": ("mistral", False)}


@pytest.fixture(scope="session", params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> PreTrainedModel:
    family, tied = TEACHERS[request.param]
    return tiny_teacher(family, tied=tied)


@pytest.fixture(scope="session")
def architecture(teacher: PreTrainedModel) -> Architecture:
    return architecture_from_config(teacher.config.to_dict())


@pytest.fixture(scope="session")
def windows() -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (6, 25), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def importance(teacher: PreTrainedModel, architecture: Architecture, windows: torch.Tensor) -> Importance:
    return measure_importance(teacher, architecture, windows, batch_size=2)


@pytest.fixture(scope="session")
def orders(
    teacher: PreTrainedModel, architecture: Architecture, importance: Importance
) -> dict[tuple[str, str], OrderedTeacher]:
    """Return the teacher in every order, by `ordering` and `rope`."""
    scores = {"activation": importance, "native": None}
    return {
        (ordering, rope): order_teacher(teacher, architecture, scores[ordering], rope)
        for ordering in scores
        for rope in ("preserve", "rebuild")
    }


@pytest.fixture(params=CHILDREN)
def child_architecture(request: pytest.FixtureRequest, architecture: Architecture) -> Architecture:
    hidden_size, layers = CHILDREN[request.param]
    return replace(architecture, hidden_size=hidden_size, layers=layers)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="w0")  # noqa: S106


@pytest.fixture(scope="session")
def teacher_folder(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    teacher.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
