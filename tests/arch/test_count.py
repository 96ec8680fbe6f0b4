"""Law 1: closed forms equal public numbers and the models that transformers and torch build and count."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, architectures, layer, llama
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from budwood.arch.count import (
    forward_flops_per_token,
    kv_cache_bytes_per_token,
    layer_parameters,
    neuron_parameters,
    num_parameters,
    training_flops_per_token,
)
from budwood.arch.spec import Architecture
from budwood.subnet.checkpoint import build_empty, model_config

LLAMA_2_7B = llama(32000, 4096, *[layer(32, 32, 128, 11008)] * 32, tied=False)
LLAMA_32_1B = llama(128256, 2048, *[layer(32, 8, 64, 8192)] * 16)
TINYLLAMA = llama(32000, 2048, *[layer(32, 4, 64, 5632)] * 22, tied=False)
MISTRAL_7B = replace(llama(32000, 4096, *[layer(32, 8, 128, 14336)] * 32, tied=False), family="mistral")
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def empty_model(architecture: Architecture) -> PreTrainedModel:
    """Return the model that transformers builds of an architecture, without weights."""
    base = {
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "pad_token_id": None,
        "sliding_window": None,
    }
    return build_empty(model_config(base, architecture, [ROPE] * architecture.num_hidden_layers))


@pytest.mark.parametrize(
    ("architecture", "count"),
    [  # sizes and counts as their model cards give them
        (SMOLLM2_135M, 134_515_008),
        (LLAMA_2_7B, 6_738_415_616),
        (LLAMA_32_1B, 1_235_814_400),
        (TINYLLAMA, 1_100_048_384),
        (MISTRAL_7B, 7_241_732_096),
    ],
    ids=["SmolLM2-135M", "Llama-2-7B", "Llama-3.2-1B", "TinyLlama-1.1B", "Mistral-7B"],
)
def test_parameters_of_public_models(architecture: Architecture, count: int) -> None:
    assert num_parameters(architecture) == count


def test_flops_and_cache_of_smollm2() -> None:
    """The audit's 286.65 and 410.5 MFLOP, and two vectors of 3 x 64 bfloat16 numbers in each of 30 layers."""
    assert forward_flops_per_token(SMOLLM2_135M, context=256) == pytest.approx(286.65e6, abs=0.005e6)
    assert forward_flops_per_token(SMOLLM2_135M, context=2048) == pytest.approx(410.5e6, abs=0.05e6)
    assert kv_cache_bytes_per_token(SMOLLM2_135M) == 2 * 3 * 64 * 2 * 30
    assert kv_cache_bytes_per_token(SMOLLM2_135M, bytes_per_value=4) == 2 * 3 * 64 * 4 * 30


@given(architectures())
@settings(max_examples=60, deadline=None)
def test_parameters_equal_the_built_model(architecture: Architecture) -> None:
    model = empty_model(architecture)
    assert num_parameters(architecture) == sum(parameter.numel() for parameter in model.parameters())
    for spec, built in zip(architecture.layers, model.base_model.layers, strict=True):
        counted = layer_parameters(architecture.family, architecture.hidden_size, spec)
        assert counted == sum(parameter.numel() for parameter in built.parameters())


@given(architectures(), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_flops_equal_torchs_counter(architecture: Architecture, batch: int, context: int) -> None:
    """Torch counts what we count: every linear map with the head, and both products of full, uncausal attention.

    Neither counts element-wise work: norms, activations, softmax, rotations and the embedding look-up.
    """
    model = empty_model(architecture).to_empty(device="cpu")
    tokens = torch.zeros(batch, context, dtype=torch.long)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False)
    expected = batch * context * forward_flops_per_token(architecture, context=context)
    assert counter.get_total_flops() == expected


@given(architectures(), st.integers(1, 64))
def test_what_context_adds(architecture: Architecture, context: int) -> None:
    """Attention is linear in the context, a causal mask halves it, and training is three forwards."""
    attended = sum(4 * spec.num_attention_heads * spec.head_dim for spec in architecture.layers)
    full, causal = (forward_flops_per_token(architecture, context=context, causal=c) for c in (False, True))
    assert forward_flops_per_token(architecture, context=context + 1) - full == attended
    assert full - causal == attended * context // 2
    assert training_flops_per_token(architecture, context=context) == 3 * full


@given(architectures(), st.integers(1, 100))
def test_what_one_neuron_adds(architecture: Architecture, neurons: int) -> None:
    first, *others = architecture.layers
    wider = replace(first, intermediate_size=first.intermediate_size + neurons)
    added = num_parameters(architecture.with_layers((wider, *others))) - num_parameters(architecture)
    assert added == neurons * neuron_parameters(architecture)


@given(architectures())
def test_a_tied_table_counts_once(architecture: Architecture) -> None:
    tied, untied = (replace(architecture, tie_word_embeddings=is_tied) for is_tied in (True, False))
    table = architecture.vocab_size * architecture.hidden_size
    assert num_parameters(untied) - num_parameters(tied) == table
    assert forward_flops_per_token(untied, context=8) == forward_flops_per_token(tied, context=8)
