"""Streamed statistics equal those of all activations at once; those of weights are plain sums of squares."""

from copy import deepcopy
from dataclasses import fields, replace

import pytest
import torch
from teachers import across, architecture_of, every_family, measure_importance, tiny_teacher, typical, weights_of

from budwood.arch.family import family_of
from budwood.subnet.importance import Importance, LayerImportance, importance_of_weights
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

GROUPS, HEAD_DIM = 3, 16
SCORES = [field.name for field in fields(LayerImportance)]
every_kind = pytest.mark.parametrize(
    "teacher",
    [
        "gemma2 tied",
        "gemma3_text untied",
        "gpt_neox untied",
        "llama tied",
        "olmo2 untied",
        "qwen2 tied",
        "qwen3 untied",
    ],
    indirect=True,
)
llama_only = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)


def capture(model, windows):
    """Return `{module name: (first input, output)}` of one forward pass in float64."""
    model = deepcopy(model).double()
    seen = {}
    for name, module in model.base_model.named_modules(prefix=model.base_model_prefix):
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (*inputs, output)}))
    with torch.no_grad():
        model(windows, use_cache=False)
    return seen


def modules_of(model):
    """Return the names of one layer's modules, `{what: where}`, and of the norms of the residual stream."""
    if model.config.model_type == "gpt_neox":
        names = {"qkv": "attention.query_key_value", "output": "attention.dense", "mlp_out": "mlp.dense_4h_to_h"}
        return names, ["input_layernorm", "post_attention_layernorm"], "final_layer_norm"
    normed = model.config.model_type in {"gemma3_text", "olmo2", "qwen3"}
    names = {"output": "self_attn.o_proj", "mlp_out": "mlp.down_proj"}
    names |= {part: f"self_attn.{part}_{'norm' if normed else 'proj'}" for part in ("q", "k")}
    norms = [name for name, _ in model.base_model.layers[0].named_children() if name.endswith("layernorm")]
    return names, norms, "norm"


@pytest.fixture(scope="module")
def naive(teacher, windows):
    """The statistics by their definitions, from all activations in float64."""
    seen, prefix = capture(teacher, windows), teacher.base_model_prefix
    modules, norms, final = modules_of(teacher)
    layers = []
    for position, block in enumerate(teacher.base_model.layers):
        path = f"{prefix}.layers.{position}"
        before, after = seen[path][0], seen[path][-1]
        cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
        outputs = seen[f"{path}.{modules['output']}"][0].flatten(0, 1).view(len(windows) * 25, GROUPS, -1, HEAD_DIM)
        weight = block.get_submodule(modules["output"]).weight.detach().double().view(48, *outputs.shape[1:])
        if "qkv" in modules:
            fused = seen[f"{path}.{modules['qkv']}"][-1].view(-1, GROUPS, 3, HEAD_DIM)
            queries, keys = fused[:, :, 0, None], fused[:, :, 1]
        else:
            queries, keys = (tokens_first(teacher, seen[f"{path}.{modules[part]}"][-1]) for part in ("q", "k"))
        activations = seen[f"{path}.{modules['mlp_out']}"][0]
        neurons = activations[:, 1:].flatten(0, 1)
        written = block.get_submodule(modules["mlp_out"]).weight.detach().double().norm(dim=0) ** 2
        layers.append(
            {
                "influence": (1 - cosine).mean(),
                "change": (after - before)[:, 1:].norm() ** 2 / after[:, 1:].norm() ** 2,
                "heads": torch.einsum("tgqs,egqs->tgqe", outputs, weight).norm(dim=-1).square().mean(0),
                "queries": queries.reshape(-1, *outputs.shape[1:]).square().mean(0).sum(1),
                "keys": keys.reshape(-1, GROUPS, HEAD_DIM).square().mean(0),
                "neurons": neurons.square().mean(0) * written,
                "head_norms": outputs.norm(dim=-1).mean(0),
                "activations": activations.abs().mean((0, 1)),
                "values": (outputs[..., None] * outputs[..., None, :]).mean((0, 2)),
            }
        )
    residual = [f"{prefix}.{final}", *(f"{prefix}.layers.{layer}.{norm}" for layer in range(4) for norm in norms)]
    heads = [
        f"{prefix}.layers.{i}.{modules[p]}" for i in range(4) for p in "qk" if p in modules and "norm" in modules[p]
    ]
    channels = torch.stack([seen[name][-1].abs().mean((0, 1)) for name in residual]).mean(0)
    return {
        "channels": channels,
        "layers": layers,
        "norms": {name: energy(teacher, seen[name][0]) for name in residual + heads},
    }


def tokens_first(model, heads):
    """Put positions before heads, where the norms of Gemma 3 read them behind."""
    return heads.transpose(1, 2) if model.config.model_type == "gemma3_text" and heads.dim() == 4 else heads


def energy(model, states):
    """Mean square of every entry after the first position, of inputs that are scaled to mean square one."""
    later = tokens_first(model, states)[:, 1:]
    if model.config.model_type == "gpt_neox":
        later = later - later.mean(-1, keepdim=True)
    normalised = later**2 / (later**2).mean(-1, keepdim=True)
    return normalised.flatten(0, -2).mean(0)


@every_kind
def test_each_score_equals_its_definition(importance, naive):
    for layer, expected in zip(importance.layers, naive["layers"], strict=True):
        for name in SCORES:
            score = getattr(layer, name)
            assert score.dtype == torch.float32
            torch.testing.assert_close(score.double(), expected[name], rtol=1e-4, atol=1e-5, msg=f"{name}: {{}}".format)


@every_kind
def test_channels_and_norms_equal_their_definitions(importance, naive):
    torch.testing.assert_close(importance.channels.double(), naive["channels"], rtol=1e-4, atol=1e-5)
    assert importance.norms.keys() == {f"{name}.weight" for name in naive["norms"]}
    for name, expected in naive["norms"].items():
        torch.testing.assert_close(importance.norms[f"{name}.weight"].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_pair_is_what_turns_together_and_past_that_two_neighbours():
    """One group whose squares are 0, 1, 2, ...: dimensions 0 and 2, 1 and 3 turn; then 4 with 5, 6 with 7."""
    energies = torch.arange(8.0)[None]
    zero = torch.zeros(())
    layer = LayerImportance(
        **dict.fromkeys(("influence", "change", "heads", "neurons", "head_norms", "activations", "values"), zero),
        queries=energies,
        keys=2 * energies,
    )
    assert torch.allclose(layer.pairs(4), 2**0.5 * torch.tensor([[2.0, 4.0, 9.0, 13.0]]))
    assert torch.allclose(layer.pairs(8), 2**0.5 * torch.tensor([[4.0, 6.0, 8.0, 10.0]]))
    assert torch.allclose(layer.dims, 2**0.5 * energies)


@pytest.mark.parametrize(("teacher", "batch_size"), across([1, 4, 6]), indirect=["teacher"])
def test_the_batch_size_does_not_matter(teacher, architecture, windows, importance, batch_size):
    other = measure_importance(teacher, architecture, windows, batch_size=batch_size).to_tensors()
    for name, tensor in importance.to_tensors().items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


@every_family
def test_two_halves_make_the_whole(teacher, architecture, windows, importance):
    """Only sums are kept: means over equal halves average to those of all."""
    halves = [measure_importance(teacher, architecture, half).to_tensors() for half in windows.split(3)]
    for name, whole in importance.to_tensors().items():
        if not name.endswith("change"):  # a quotient of two sums
            torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, whole, rtol=1e-4, atol=1e-5)


@llama_only
def test_norms_changes_and_neurons_do_not_see_the_first_position(teacher, architecture, windows):
    """Without attention no position hears of the first, so another first token changes what counts it, and no more."""
    deaf = deepcopy(teacher)
    for layer in deaf.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    other = windows.clone()
    other[:, 0] = (other[:, 0] + 1) % 97
    one, two = (measure_importance(deaf, architecture, ids).to_tensors() for ids in (windows, other))
    unmoved = {name for name in one if torch.equal(one[name], two[name])}
    later = (".change", ".neurons")
    assert {name for name in one if name.startswith("norms.") or name.endswith(later)} <= unmoved
    assert not unmoved & {"channels", *(f"layers.{i}.{name}" for i in range(4) for name in ("influence", "keys"))}


def count_hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@llama_only
def test_hooks_are_removed_even_if_the_forward_pass_fails(teacher, architecture, windows):
    before = count_hooks(teacher)
    with pytest.raises(IndexError):
        measure_importance(teacher, architecture, windows + 97)
    measure_importance(teacher, architecture, windows[:1])
    assert count_hooks(teacher) == before


@typical
def test_the_round_trip_through_tensors_is_the_identity(importance):
    tensors = importance.to_tensors()
    again = Importance.from_tensors(tensors)
    assert again.to_tensors().keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.to_tensors().items())
    assert len(again.layers) == 4
    assert again.norms.keys() == importance.norms.keys()
    assert again.eliminated == importance.eliminated == ()
    assert Importance.from_tensors(replace(importance, eliminated=(2, 0, 3, 1)).to_tensors()).eliminated == (2, 0, 3, 1)


def test_the_round_trip_keeps_more_than_ten_layers_in_order(importance):
    layers = tuple(replace(importance.layers[0], influence=torch.tensor(float(depth))) for depth in range(12))
    again = Importance.from_tensors(replace(importance, layers=layers).to_tensors())
    assert [float(layer.influence) for layer in again.layers] == list(range(12))


@every_kind
def test_importance_of_weights_is_sums_of_squares(teacher, architecture):
    family, weights = family_of(architecture.family), weights_of(teacher)
    actual = importance_of_weights(weights, architecture)
    assert not actual.norms
    assert list(actual.eliminated) == sorted(range(4), key=lambda layer: float(actual.layers[layer].change))
    channels = torch.zeros(48)
    for position, layer in enumerate(actual.layers):
        spec = architecture.layers[position]
        query, key, value, output, mlp_out, *mlp_in = (
            weights[family.layer_weight(position, module)].square()
            for module in (family.query, family.key, family.value, family.output, family.mlp_out, *family.mlp_in)
        )
        for group in range(GROUPS):
            rows = slice(group * HEAD_DIM, (group + 1) * HEAD_DIM)
            torch.testing.assert_close(layer.keys[group], key[rows].sum(1))
            own = [group * spec.heads_per_group + query for query in range(spec.heads_per_group)]
            heads = [slice(head * HEAD_DIM, (head + 1) * HEAD_DIM) for head in own]
            torch.testing.assert_close(layer.queries[group], sum(query[head].sum(1) for head in heads))
            expected = torch.stack([output[:, head].sum() * value[rows].sum() for head in heads])
            torch.testing.assert_close(layer.heads[group], expected)
        torch.testing.assert_close(layer.neurons, sum(matrix.sum(1) for matrix in mlp_in) * mlp_out.sum(0))
        assert float(layer.influence) == float(layer.change) == pytest.approx(float(output.sum() + mlp_out.sum()))
        assert torch.equal(layer.values, torch.eye(HEAD_DIM).repeat(GROUPS, 1, 1))
        channels += sum(matrix.mean(0) for matrix in (query, key, value, *mlp_in))
        channels += output.mean(1) + mlp_out.mean(1)
    torch.testing.assert_close(actual.channels, channels)


@llama_only
def test_ordering_by_magnitude_asks_the_weights(teacher, teacher_folder, architecture):
    expected = importance_of_weights(weights_of(teacher), architecture)
    ordered = open_ordered(teacher_folder, Ordering(ordering="magnitude"))
    neurons = expected.layers[2].neurons.argsort(descending=True)
    channels = expected.channels.argsort(descending=True)
    gate = teacher.model.layers[2].mlp.gate_proj.weight[neurons][:, channels]
    assert torch.equal(ordered.weights["model.layers.2.mlp.gate_proj.weight"], gate)


def test_a_model_in_half_precision_gives_full_precision_scores(windows):
    model = tiny_teacher("llama", tied=True).bfloat16()
    tensors = measure_importance(model, architecture_of(model), windows[:2]).to_tensors()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_neurons_of_massive_activations_stand_above_all(windows):
    """One of 64 neurons, by what it writes at the first position; its score there does not count otherwise."""
    teacher = tiny_teacher("llama", tied=False, intermediate_size=128)
    written = []
    layer = teacher.model.layers[1].mlp.down_proj
    handle = layer.register_forward_pre_hook(lambda _, inputs: written.append(inputs[0].detach()))
    scores = measure_importance(teacher, architecture_of(teacher), windows).layers[1].neurons
    handle.remove()
    activations, norms = torch.cat(written), layer.weight.square().sum(0)
    plain = activations[:, 1:].square().mean((0, 1)) * norms
    massive = (activations[:, 0].square().sum(0) * norms).topk(2).indices
    expected = plain.clone()
    expected[massive] += plain.max()
    torch.testing.assert_close(scores, expected.detach())
    assert set(scores.topk(2).indices.tolist()) == set(massive.tolist())
