"""A child computes what its teacher computes with everything else switched off."""

from dataclasses import replace

import pytest
import torch
from transformers import MistralForCausalLM

from budwood.arch.count import num_parameters
from budwood.subnet.extract import extract_child, own_weights
from budwood.subnet.modeling import LayerwiseLlamaForCausalLM


def masked_parent(ordered, candidate):
    """The whole ordered teacher with zeros for all that the candidate leaves out; layers become skips.

    Where channels are dropped, each norm divides by the root mean square of E channels, of which only e are not zero:
    sqrt(e / E) and the gain turn that into the child's norm.
    """
    parent = own_weights(extract_child(ordered, ordered.architecture))
    kept, width = candidate.hidden_size, ordered.architecture.hidden_size
    share = (kept / width) ** 0.5
    gains = ordered.norm_gain[:, kept - 1] * (share if kept < width else 1)
    with torch.no_grad():
        parent.model.embed_tokens.weight[:, kept:] = 0
        parent.model.norm.weight.mul_(gains[-1])
        sizes = dict(zip(ordered.layer_ranking, candidate.layers, strict=False))
        for position, block in enumerate(parent.model.layers):
            block.input_layernorm.weight.mul_(gains[2 * position])
            block.post_attention_layernorm.weight.mul_(gains[2 * position + 1])
            block.self_attn.o_proj.weight[kept:] = 0
            block.mlp.down_proj.weight[kept:] = 0
            mask_layer(block, sizes.get(position), ordered)
    return parent


def mask_layer(block, layer, ordered):
    output, down = block.self_attn.o_proj.weight, block.mlp.down_proj.weight
    if layer is None:
        output.zero_()
        down.zero_()
        return
    down[:, layer.intermediate_size :] = 0
    heads = output.view(48, 3, 2, 16)
    heads[:, layer.num_key_value_heads :] = 0
    heads[:, :, layer.heads_per_group :] = 0
    heads[:, :, :, layer.head_dim :] = 0
    pairs = set(ordered.pair_ranking[: layer.head_dim // 2])
    dropped = [dim for dim in range(16) if dim % 8 not in pairs]
    block.self_attn.q_proj.weight.view(6, 16, 48)[:, dropped] = 0
    block.self_attn.k_proj.weight.view(3, 16, 48)[:, dropped] = 0


@pytest.mark.parametrize("teacher", ["tied", "untied"], indirect=True)
@pytest.mark.parametrize("hidden_size", [48, 30])
@pytest.mark.parametrize("ordering", ["activation", "native"])
def test_a_child_equals_its_masked_parent(teacher, orders, windows, child_architecture, ordering, hidden_size):
    ordered = orders[ordering, "preserve"]
    candidate = replace(child_architecture, hidden_size=hidden_size)
    with torch.no_grad():
        expected = masked_parent(ordered, candidate)(windows).logits
        actual = extract_child(ordered, candidate)(windows).logits
        whole = teacher(windows).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=3e-4)
    assert (expected - whole).abs().max() > 0.1


@pytest.mark.parametrize("rope", ["preserve", "rebuild"])
def test_a_child_has_the_sizes_and_the_class_that_its_architecture_asks_for(teacher, orders, child_architecture, rope):
    child = extract_child(orders["activation", rope], child_architecture)
    divides = child_architecture.hidden_size % child_architecture.layers[0].num_attention_heads == 0
    uniform_class = type(teacher) if divides else MistralForCausalLM
    assert type(child) is (uniform_class if child_architecture.is_uniform else LayerwiseLlamaForCausalLM)
    assert sum(parameter.numel() for parameter in child.parameters()) == num_parameters(child_architecture)
    assert not child.training


def test_native_prefix_with_rebuilt_embeddings_is_the_papers_cut(teacher, orders, child_architecture):
    """The first of everything, unscaled, under the teacher's rotary base (paper, section 2.1)."""
    child = extract_child(orders["native", "rebuild"], child_architecture)
    hidden, layer = child_architecture.hidden_size, child_architecture.layers[0]
    groups, queries, dims = layer.num_key_value_heads, layer.heads_per_group, layer.head_dim
    rows = teacher.model.layers[0].self_attn.q_proj.weight.view(3, 2, 16, 48)
    expected = rows[:groups, :queries, :dims, :hidden].flatten(0, 2)
    attention = child.model.layers[0].self_attn
    assert torch.equal(attention.q_proj.weight, expected)
    assert torch.equal(child.model.norm.weight, teacher.model.norm.weight[:hidden])
    assert attention.config.rope_parameters["rope_theta"] == teacher.config.rope_parameters["rope_theta"]


def test_prefixes_share_the_teachers_memory_until_the_child_owns_its_weights(architecture, orders):
    ordered = orders["activation", "preserve"]
    candidate = replace(architecture, layers=(replace(architecture.layers[0], intermediate_size=10),) * 4)
    child = extract_child(ordered, candidate)
    inside = ordered.state["model.layers.0.mlp.up_proj.weight"]
    before = inside.clone()
    assert child.model.layers[0].mlp.up_proj.weight.data_ptr() == inside.data_ptr()
    with torch.no_grad():
        for parameter in own_weights(child).parameters():
            assert parameter.is_contiguous()
            parameter.zero_()
    assert torch.equal(inside, before)


def test_ties_survive_the_cut(architecture, orders, child_architecture):
    child = extract_child(orders["activation", "preserve"], child_architecture)
    shared = child.get_output_embeddings().weight is child.get_input_embeddings().weight
    assert shared is architecture.tie_word_embeddings


def test_a_child_has_the_precision_of_the_ordered_weights(orders, child_architecture):
    ordered = orders["activation", "preserve"]
    halved = replace(ordered, state={name: weight.bfloat16() for name, weight in ordered.state.items()})
    child = extract_child(halved, child_architecture)
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}
    assert child.config.dtype == torch.bfloat16
