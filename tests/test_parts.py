"""The benchmark that leaves attention or the MLP out of layers."""

import json
import sys

import pytest
import torch
from scripts import beside_scripts, small_quickstart
from teachers import tiny_teacher


@pytest.fixture
def parts(monkeypatch):
    """Import the benchmark, on a random teacher and short text."""
    with beside_scripts(monkeypatch):
        import parts

        sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6}
        splits = {"train": 0.4, "calibration": 0.2, "selection": 0.1, "choice": 0.1, "validation": 0.2}
        small_quickstart(monkeypatch, {**sizes, "initializer_range": 0.2}, splits)
        monkeypatch.setattr(parts, "NUM_SEQUENCES", 4)
        yield parts


@torch.no_grad()
def test_a_layer_without_a_part_is_the_stock_layer_with_a_zeroed_output_projection(parts):
    teacher, tokens = tiny_teacher("llama", tied=True), torch.arange(2 * 9).reshape(2, 9)
    partial = parts.PartialLlama(teacher)
    stock = teacher(tokens).logits
    before = partial.states(tokens, partial.parts)
    torch.testing.assert_close(partial.logits(before, partial.parts), stock)
    removed = {(1, parts.ATTENTION), (2, parts.ATTENTION), (2, parts.MLP)}
    for layer, kind in sorted(removed):
        own = teacher.model.layers[layer]
        output = own.self_attn.o_proj if kind == parts.ATTENTION else own.mlp.down_proj
        torch.nn.init.zeros_(output.weight)
    zeroed = teacher(tokens).logits
    assert not torch.allclose(zeroed, stock)
    left = partial.parts - removed
    for run_again in (1, 2):  # the stream before the first change stays what it was
        torch.testing.assert_close(partial.logits(before[:run_again], left), zeroed)
    sizes = sum(partial.num_parameters((1, kind)) for kind in (parts.ATTENTION, parts.MLP))
    assert sizes == sum(parameter.numel() for parameter in teacher.model.layers[1].parameters())


def test_what_changes_nothing_goes_first_and_a_stopped_elimination_goes_on(parts, tmp_path):
    teacher, tokens = tiny_teacher("llama", tied=True), torch.arange(2 * 9).reshape(2, 9)
    for own in (teacher.model.layers[1].self_attn.o_proj, teacher.model.layers[2].mlp.down_proj):
        torch.nn.init.zeros_(own.weight)
    partial, file = parts.PartialLlama(teacher), tmp_path / "parts.jsonl"
    useless = {(1, parts.ATTENTION), (2, parts.MLP)}
    most = teacher.num_parameters() - sum(map(partial.num_parameters, useless))
    left, trials = parts.eliminate(partial, tokens, most, "parts", file)
    whole = len(partial.parts)
    assert (left, trials) == (partial.parts - useless, whole + whole - 1)
    begun = file.read_text().splitlines(keepends=True)
    file.write_text(begun[0])
    assert parts.eliminate(partial, tokens, most, "parts", file) == (left, trials)
    assert file.read_text() == "".join(begun)


@pytest.mark.slow
def test_parts_and_layers_are_compared_in_small(parts, monkeypatch, capsys, tmp_path):
    teacher = parts.open_quickstart(tmp_path).teacher.load_model(torch.float32)
    most = round(0.7 * teacher.num_parameters())
    few = {name: parts.CORRECTIONS[name] for name in ("not corrected", "refitted")}
    monkeypatch.setattr(parts, "CORRECTIONS", few)
    monkeypatch.setattr(sys, "argv", ["parts.py", f"--parameters={most}", f"--cache-dir={tmp_path}"])
    parts.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["left"]["layers"][0] == found["left"]["layers"][1] < 4
    assert min(found["trials"].values()) >= 4
    assert max(found["cut_parameters"].values()) < teacher.num_parameters()
    assert all(0 < mean < 20 < 1 / error for nats in found["nats"].values() for mean, error in nats.values())
    (ours, _), (theirs, _) = (found["nats"][way]["refitted"] for way in parts.WAYS)
    assert found["parts_less_layers"][0] == pytest.approx(ours - theirs, abs=2e-4)
