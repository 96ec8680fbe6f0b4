"""Law 4: the folder computes what the child in memory computes, with plain transformers, wherever it is opened."""

import io
import json
import os

import pytest
import torch
from processes import run_python
from teachers import expected_of, select
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from budwood.arch.bins import ParameterBin
from budwood.arch.config import architecture_from_config
from budwood.arch.count import num_parameters
from budwood.models.certificate import prove
from budwood.models.checkpoint import own_weights, read_architecture
from budwood.models.export import write_checkpoint
from budwood.subnet.extract import extract_child

STRANGER = """
import json, sys
from pathlib import Path
sys.modules["budwood"] = None  # importing it fails, installed or not
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in map(Path, sys.argv[1:]):
    certificate = json.loads((folder / "certificate.json").read_text())
    probe = certificate["probe"]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=not certificate["native"]
    ).eval()
    ids = torch.tensor([probe["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0][:, probe["columns"]]
    generated = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    print(json.dumps({
        "difference": float((logits - torch.tensor(probe["logits"])).abs().max()),
        "class": type(model).__name__,
        "module": type(model).__module__,
        "generated": generated.shape[1] - ids.shape[1],
        "vocabulary": len(AutoTokenizer.from_pretrained(folder, trust_remote_code=not certificate["native"])),
    }))
assert not [name for name in sys.modules if name.startswith("budwood.")]
"""


@pytest.fixture(params=["preserve", "rebuild"])
def exported(request, orders, teacher_folder, selection, tmp_path):
    """A child in memory and the folder it was written to."""
    child = own_weights(extract_child(orders["activation", request.param], selection))
    return child, write_checkpoint(child, teacher_folder, tmp_path / "child")


tied_and_preserved = pytest.mark.parametrize(("teacher", "exported"), [("llama tied", "preserve")], indirect=True)


def reload(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()


@pytest.mark.slow
def test_the_folder_computes_what_the_child_computes(exported, child_architecture, windows):
    child, folder = exported
    loaded = reload(folder)
    with torch.no_grad():
        torch.testing.assert_close(loaded(windows).logits, child(windows).logits, rtol=1e-5, atol=2e-5)
    native = child_architecture.is_uniform and child_architecture.family != "gpt_neox"
    assert (folder / "modeling.py").is_file() is not native
    assert type(loaded).__module__.startswith("transformers.models") is native
    assert read_architecture(folder) == architecture_from_config(child.config.to_dict())


@pytest.mark.parametrize(
    ("teacher", "exported"), [("llama tied", "preserve"), ("gpt_neox untied", "rebuild")], indirect=True
)
def test_generation_with_and_without_the_cache_agree(exported, windows):
    loaded = reload(exported[1])
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    prompt = windows[:2, :7]
    cached = loaded.generate(prompt, use_cache=True, **settings)
    assert torch.equal(cached, loaded.generate(prompt, use_cache=False, **settings))
    assert cached.shape == (2, 19)


@tied_and_preserved
def test_the_folder_has_the_teachers_tokenizer_and_generation_settings(exported, teacher_folder, teacher):
    _, folder = exported
    assert (
        AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(teacher_folder).get_vocab()
    )
    assert GenerationConfig.from_pretrained(folder).eos_token_id == teacher.config.eos_token_id


@tied_and_preserved
def test_writing_again_replaces_the_folder_as_a_whole(exported, teacher_folder):
    child, folder = exported
    (folder / "stale.txt").touch()
    (folder.with_name("child.partial")).mkdir()
    write_checkpoint(child, teacher_folder, folder)
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["child"]


@tied_and_preserved
def test_a_child_can_be_trained_under_gradient_checkpointing(exported, windows):
    child, folder = exported
    gradients = []
    for checkpointing in (False, True):
        model = reload(folder).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(input_ids=windows, labels=windows, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert all(parameter.grad is None for parameter in child.parameters())


@tied_and_preserved
def test_a_child_survives_torch_save(exported, windows):
    child, _ = exported
    buffer = io.BytesIO()
    torch.save(child, buffer)
    buffer.seek(0)
    # Our own bytes, hence no risk in reading a whole object.
    loaded = torch.load(buffer, weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(windows).logits, child(windows).logits)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)
def test_strangers_open_both_kinds_of_folders(teacher, teacher_folder, architecture, orders, tmp_path):
    """In a process without budwood, a stock and a layer-wise folder give the certificate's logits and text."""
    ordered = orders["activation", "preserve"]
    kinds = {
        "stock": select(40, [0, 1], (2, 1, 10, 40)),
        "layerwise": select(40, [0, 1], (2, 1, 10, 40), (2, 1, 10, 11)),
    }
    for name, selection in kinds.items():
        child = own_weights(extract_child(ordered, selection))
        folder = write_checkpoint(child, teacher_folder, tmp_path / name)
        sizes = selection.architecture(architecture)
        text = torch.arange(20)
        proof = prove(expected_of(child, text), folder, sizes, ParameterBin(1, num_parameters(sizes)), text)
        (folder / "certificate.json").write_text(proof.model_dump_json(by_alias=True))
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    done = run_python(["-c", STRANGER, *(str(tmp_path / name) for name in kinds)], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    stock, layerwise = (json.loads(line) for line in done.stdout.splitlines())
    assert stock["class"] == type(teacher).__name__
    assert layerwise["class"] == "LayerwiseLlamaForCausalLM"
    assert layerwise["module"].startswith("transformers_modules.")
    for said in (stock, layerwise):
        assert said["difference"] < 1e-4
        assert (said["generated"], said["vocabulary"]) == (4, 97)


@tied_and_preserved
def test_the_tokenizer_of_a_layerwise_folder_is_read_without_a_question(exported, tmp_path, monkeypatch):
    """A folder that brings code makes AutoTokenizer ask whether to run it; a long run must not wait for the answer."""
    child, folder = exported
    monkeypatch.setattr("builtins.input", pytest.fail)
    again = write_checkpoint(child, folder, tmp_path / "grandchild")
    assert AutoTokenizer.from_pretrained(again, trust_remote_code=False).get_vocab().keys() >= {"w0", "w96"}
