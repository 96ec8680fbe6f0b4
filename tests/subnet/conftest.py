"""Tiny teachers with grouped queries, tied and untied, whose random weights make every defect visible."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from budwood.arch.family import architecture_from_config
from budwood.arch.spec import Architecture
from budwood.subnet.importance import Importance, measure_importance


def tiny_llama(*, tied: bool = True, head_dim: int = 16) -> LlamaForCausalLM:
    """Return a Llama of 4 layers, 3 groups of 2 queries, with norm weights that are not all one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=head_dim,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def teacher(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_llama(tied=request.param)


@pytest.fixture(scope="session")
def architecture(teacher: PreTrainedModel) -> Architecture:
    return architecture_from_config(teacher.config.to_dict())


@pytest.fixture(scope="session")
def windows() -> torch.Tensor:
    return torch.randint(0, 97, (6, 25), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def importance(teacher: PreTrainedModel, architecture: Architecture, windows: torch.Tensor) -> Importance:
    return measure_importance(teacher, architecture, windows, batch_size=2)
