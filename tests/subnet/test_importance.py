"""Streamed statistics equal those of all activations at once."""

from copy import deepcopy

import pytest
import torch

from budwood.subnet.importance import Importance, measure_importance

pytestmark = pytest.mark.parametrize("teacher", ["tied"], indirect=True)

GROUPS, QUERIES, HEAD_DIM = 3, 2, 16


def capture(model, windows):
    """Return `{module name: (first input, output)}` of one forward pass in float64."""
    model = deepcopy(model).double()
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(("norm", "proj")) or name.rpartition(".")[2].isdigit():
            module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    with torch.no_grad():
        hidden = model.model(windows, output_hidden_states=True, use_cache=False).hidden_states
    for layer in range(4):  # the hooks saw what Hugging Face reports
        assert torch.equal(seen[f"model.layers.{layer}"][0], hidden[layer])
    return model, seen


@pytest.fixture(scope="module")
def naive(teacher, windows):
    """The statistics by their definitions, from all activations in float64."""
    model, seen = capture(teacher, windows)
    norms = [f"model.layers.{i}.{n}" for i in range(4) for n in ("input_layernorm", "post_attention_layernorm")]
    norms.append("model.norm")
    scores = {"layers": [], "heads": [], "pairs": [], "neurons": [], "values": []}
    for layer, block in enumerate(model.model.layers):
        path = f"model.layers.{layer}"
        before, after = seen[path]
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        scores["layers"].append((1 - cosine).mean())
        outputs = seen[f"{path}.self_attn.o_proj"][0].flatten(0, 1)
        weight = block.self_attn.o_proj.weight.detach()
        contributions = [
            outputs[:, h * HEAD_DIM : (h + 1) * HEAD_DIM] @ weight[:, h * HEAD_DIM : (h + 1) * HEAD_DIM].T
            for h in range(GROUPS * QUERIES)
        ]
        energies = [part.square().sum(1).mean() for part in contributions]
        scores["heads"].append(torch.stack(energies).view(GROUPS, QUERIES))
        grouped = outputs.view(-1, GROUPS, QUERIES, HEAD_DIM)
        scores["values"].append((grouped[..., None] * grouped[..., None, :]).mean((0, 2)))
        query = seen[f"{path}.self_attn.q_proj"][1].view(-1, GROUPS, QUERIES, 2, HEAD_DIM // 2)
        key = seen[f"{path}.self_attn.k_proj"][1].view(-1, GROUPS, 2, HEAD_DIM // 2)
        scores["pairs"].append((query.square().sum((2, 3)).mean(0) * key.square().sum(2).mean(0)).sqrt())
        activation = seen[f"{path}.mlp.down_proj"][0].flatten(0, 1)
        scores["neurons"].append((activation.square().mean(0)) * block.mlp.down_proj.weight.detach().norm(dim=0) ** 2)
    result = {name: torch.stack(values) for name, values in scores.items()}
    result["channels"] = torch.stack([seen[name][1].abs().mean((0, 1)) for name in norms]).mean(0)
    later = [seen[name][0][:, 1:] for name in norms]
    result["channel_energy"] = torch.stack(
        [(states**2 / (states**2).mean(-1, keepdim=True)).mean((0, 1)) for states in later]
    )
    return result


@pytest.mark.parametrize("name", Importance.__slots__)
def test_each_score_equals_its_definition(importance, naive, name):
    torch.testing.assert_close(getattr(importance, name).double(), naive[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_batch_size_does_not_matter(teacher, architecture, windows, importance, batch_size):
    other = measure_importance(teacher, architecture, windows, batch_size=batch_size).to_tensors()
    for name, tensor in importance.to_tensors().items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_channel_energy_does_not_see_the_first_position(teacher, architecture, windows):
    """Without attention no position hears of the first, so another first token changes what counts it, and no more."""
    deaf = deepcopy(teacher)
    for layer in deaf.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    other = windows.clone()
    other[:, 0] = (other[:, 0] + 1) % 97
    one, two = (measure_importance(deaf, architecture, ids) for ids in (windows, other))
    assert torch.equal(one.channel_energy, two.channel_energy)
    assert not torch.equal(one.channels, two.channels)
    torch.testing.assert_close(one.channel_energy.mean(1), torch.ones(9))


def count_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_are_removed_even_if_the_forward_pass_fails(teacher, architecture, windows):
    before = count_hooks(teacher)
    with pytest.raises(IndexError):
        measure_importance(teacher, architecture, windows + 97)
    measure_importance(teacher, architecture, windows[:1])
    assert count_hooks(teacher) == before


def test_the_round_trip_through_tensors_is_the_identity(importance):
    again = Importance.from_tensors(importance.to_tensors())
    assert all(torch.equal(getattr(again, name), getattr(importance, name)) for name in Importance.__slots__)
