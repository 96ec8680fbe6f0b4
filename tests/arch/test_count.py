"""Law 1: closed forms equal public numbers and the models that transformers and torch build and count."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, architectures, base_config, decoder, layer, llama, pythia, ropes
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
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty, model_config

PYTHIA_410M = pythia(50304, 24, 1024, 16)
PYTHIA_1B = pythia(50304, 16, 2048, 8)
PYTHIA_28B = pythia(50304, 32, 2560, 32)
PUBLIC = {  # sizes and counts as their model cards and configurations give them
    "Pythia-70M": (pythia(50304, 6, 512, 8), 70_426_624),
    "Pythia-160M": (pythia(50304, 12, 768, 12), 162_322_944),
    "Pythia-410M": (PYTHIA_410M, 405_334_016),
    "Pythia-1B": (PYTHIA_1B, 1_011_781_632),
    "Pythia-1.4B": (pythia(50304, 24, 2048, 16), 1_414_647_808),
    "Pythia-2.8B": (PYTHIA_28B, 2_775_208_960),
    "Pythia-6.9B": (pythia(50432, 32, 4096, 32), 6_857_302_016),
    "Pythia-12B": (pythia(50688, 36, 5120, 40), 11_846_072_320),
    "SmolLM2-135M": (SMOLLM2_135M, 134_515_008),
    "Llama-2-7B": (llama(32000, 4096, *[layer(32, 32, 128, 11008)] * 32, tied=False), 6_738_415_616),
    "Llama-3.2-1B": (llama(128256, 2048, *[layer(32, 8, 64, 8192)] * 16), 1_235_814_400),
    "TinyLlama-1.1B": (llama(32000, 2048, *[layer(32, 4, 64, 5632)] * 22, tied=False), 1_100_048_384),
    "Mistral-7B": (decoder("mistral", 32000, 4096, *[layer(32, 8, 128, 14336)] * 32, tied=False), 7_241_732_096),
    "Mistral-Nemo-12B": (
        decoder("mistral", 131072, 5120, *[layer(32, 8, 128, 14336)] * 40, tied=False),
        12_247_782_400,
    ),
    "Qwen2.5-0.5B": (decoder("qwen2", 151936, 896, *[layer(14, 2, 64, 4864)] * 24), 494_032_768),
    "Qwen2.5-7B": (decoder("qwen2", 152064, 3584, *[layer(28, 4, 128, 18944)] * 28, tied=False), 7_615_616_512),
    "Qwen3-0.6B": (decoder("qwen3", 151936, 1024, *[layer(16, 8, 128, 3072)] * 28), 596_049_920),
    "Qwen3-8B": (decoder("qwen3", 151936, 4096, *[layer(32, 8, 128, 12288)] * 36, tied=False), 8_190_735_360),
    "Gemma-2-2B": (decoder("gemma2", 256000, 2304, *[layer(8, 4, 256, 9216)] * 26), 2_614_341_888),
    "Gemma-2-9B": (decoder("gemma2", 256000, 3584, *[layer(16, 8, 256, 14336)] * 42), 9_241_705_984),
    "Gemma-3-270M": (decoder("gemma3_text", 262144, 640, *[layer(4, 1, 256, 2048)] * 18), 268_098_176),
    "Gemma-3-1B": (decoder("gemma3_text", 262144, 1152, *[layer(4, 1, 256, 6912)] * 26), 999_885_952),
    "Granite-3.1-2B": (decoder("granite", 49155, 2048, *[layer(32, 8, 64, 8192)] * 40), 2_533_531_648),
    "Granite-3.1-8B": (decoder("granite", 49155, 4096, *[layer(32, 8, 128, 12800)] * 40), 8_170_848_256),
    "Phi-3-mini": (decoder("phi3", 32064, 3072, *[layer(32, 32, 96, 8192)] * 32, tied=False), 3_821_079_552),
    "Phi-4-mini": (decoder("phi3", 200064, 3072, *[layer(24, 8, 128, 8192)] * 32), 3_836_021_760),
    "Phi-4": (decoder("phi3", 100352, 5120, *[layer(40, 10, 128, 17920)] * 40, tied=False), 14_659_507_200),
    # Published as 3.4 and 13.5 billion parameters beside the encoder of images.
    "Ministral-3-3B": (decoder("ministral3", 131072, 3072, *[layer(32, 8, 128, 9216)] * 26), 3_429_006_336),
    "Ministral-3-14B": (
        decoder("ministral3", 131072, 5120, *[layer(32, 8, 128, 16384)] * 40, tied=False),
        13_506_073_600,
    ),
    "StarCoder2-3B": (decoder("starcoder2", 49152, 3072, *[layer(24, 2, 128, 12288)] * 30), 3_030_371_328),
    "StarCoder2-7B": (decoder("starcoder2", 49152, 4608, *[layer(36, 4, 128, 18432)] * 32), 7_173_923_840),
    "StableLM-3B-4E1T": (decoder("stablelm", 50304, 2560, *[layer(32, 32, 80, 6912)] * 32, tied=False), 2_795_443_200),
    # Its card leaves out the biases of the norms inside layers, 24 x 2 x 2,048.
    "StableLM-2-1.6B": (
        decoder("stablelm+use_qkv_bias", 100352, 2048, *[layer(32, 32, 64, 5632)] * 24, tied=False),
        1_644_417_024 + 24 * 2 * 2048,
    ),
    "SmolLM3-3B": (decoder("smollm3", 128256, 2048, *[layer(16, 4, 128, 11008)] * 36), 3_075_098_624),
    "OLMo-3-7B": (decoder("olmo3", 100278, 4096, *[layer(32, 32, 128, 11008)] * 32, tied=False), 7_298_011_136),
    "OLMo-3-32B": (decoder("olmo3", 100278, 5120, *[layer(40, 8, 128, 27648)] * 64, tied=False), 32_233_522_176),
    "OLMo-2-7B": (decoder("olmo2", 100352, 4096, *[layer(32, 32, 128, 11008)] * 32, tied=False), 7_298_617_344),
    "OLMo-2-1B": (decoder("olmo2", 100352, 2048, *[layer(16, 16, 128, 8192)] * 16, tied=False), 1_484_916_736),
}


def empty_model(architecture: Architecture) -> PreTrainedModel:
    """Return the model that transformers builds of an architecture, without weights."""
    with torch.device("meta"):
        return build_empty(model_config(base_config(architecture), architecture, ropes(architecture)))


@pytest.mark.parametrize(("architecture", "parameters"), PUBLIC.values(), ids=PUBLIC)
def test_parameters_of_public_models(architecture: Architecture, parameters: int) -> None:
    assert num_parameters(architecture) == parameters


@pytest.mark.parametrize(
    ("architecture", "forward", "search", "honest_search", "training"),
    [  # tables 9 to 12 and the audit: FLOP of a token, and exaFLOP of 5,050 x 1,000 x 512 and of 10B tokens
        (PYTHIA_410M, 908_328_960, 2.349, 1.96, 27.25),
        (PYTHIA_1B, 2_085_093_376, 5.391, 4.87, 62.55),
        (PYTHIA_28B, 5_961_809_920, 15.415, 14.11, 178.85),
    ],
    ids=["410M", "1B", "2.8B"],
)
def test_the_papers_flops(
    architecture: Architecture, forward: int, search: float, honest_search: float, training: float
) -> None:
    """The paper charges attention at 2,048 tokens though a search sees 512."""
    tokens = 5050 * 1000 * 512
    assert forward_flops_per_token(architecture, context=2048) == forward
    assert tokens * forward / 1e18 == pytest.approx(search, abs=0.0005)
    assert tokens * forward_flops_per_token(architecture, context=512) / 1e18 == pytest.approx(honest_search, abs=0.005)
    assert 1e10 * training_flops_per_token(architecture, context=2048) / 1e18 == pytest.approx(training, abs=0.005)


def test_flops_and_cache_of_smollm2() -> None:
    """The audit's 286.65 and 410.5 MFLOP, and two vectors of 3 x 64 bfloat16 numbers in each of 30 layers."""
    assert forward_flops_per_token(SMOLLM2_135M, context=256) == pytest.approx(286.65e6, abs=0.005e6)
    assert forward_flops_per_token(SMOLLM2_135M, context=2048) == pytest.approx(410.5e6, abs=0.05e6)
    assert kv_cache_bytes_per_token(SMOLLM2_135M) == 2 * 3 * 64 * 2 * 30
    assert kv_cache_bytes_per_token(SMOLLM2_135M, bytes_per_value=4) == 2 * 3 * 64 * 4 * 30


@pytest.mark.slow
@given(architectures())
@settings(max_examples=60)
def test_parameters_equal_the_built_model(architecture: Architecture) -> None:
    model = empty_model(architecture)
    assert num_parameters(architecture) == sum(parameter.numel() for parameter in model.parameters())
    decoder_layers = model.get_submodule(family_of(architecture.family).decoder)
    for spec, built in zip(architecture.layers, decoder_layers, strict=True):
        counted = layer_parameters(architecture.family, architecture.hidden_size, spec)
        assert counted == sum(parameter.numel() for parameter in built.parameters())


@pytest.mark.slow
@given(architectures(), st.integers(1, 3), st.integers(1, 9))
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
    assert added == neurons * neuron_parameters(architecture.family, np.array(architecture.hidden_size))


@given(architectures())
def test_a_tied_table_counts_once(architecture: Architecture) -> None:
    tied, untied = (replace(architecture, tie_word_embeddings=is_tied) for is_tied in (True, False))
    table = architecture.vocab_size * architecture.hidden_size
    assert num_parameters(untied) - num_parameters(tied) == table
    assert forward_flops_per_token(untied, context=8) == forward_flops_per_token(tied, context=8)
