"""Law 9: an export answers alike in transformers, vLLM and llama.cpp, or is refused with the reason."""

import shutil

import pytest
from exports import KINDS, Kind, uniform, write_export

from budwood.models import gguf_export
from budwood.models.checkpoint import load_config
from budwood.models.engines import ask, open_everywhere, serving_commands
from budwood.models.gguf_export import choose_form, write_gguf
from budwood.models.prompts import PROMPTS
from budwood.models.settings import ServingSettings

pytestmark = [pytest.mark.serving, pytest.mark.slow]
GGUF_KINDS = [name for name, kind in KINDS.items() if " " not in kind.gguf]


@pytest.mark.parametrize("name", KINDS)
def test_vllm_agrees_within_a_thousandth(in_vllm, name):
    said = in_vllm[name]
    assert said.agrees, said
    assert said.largest_difference < 1e-3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen2-whole", "heads fill the hidden size"),
        ("qwen3-biased", "leaves out the bias"),
        ("ministral3-arbitrary", "does not scale queries"),
    ],
)
def test_what_vllm_itself_misreads_is_served_by_its_transformers_backend_and_said(vllm, exports, name, reason):
    said = open_everywhere(exports[name], ServingSettings(engines=vllm))
    assert said["vllm"].opens
    assert "only with `--model-impl transformers`" in said["vllm"].how
    assert reason in said["vllm"].how
    assert serving_commands(exports[name], said) == ["vllm serve . --model-impl transformers"]


@pytest.mark.parametrize("name", GGUF_KINDS)
def test_llama_cpp_agrees_at_every_position(in_llama_cpp, name):
    said = in_llama_cpp[name]
    assert said.agrees, said
    assert said.largest_difference < 0.05
    assert said.num_tokens > 256


@pytest.mark.parametrize("name", KINDS)
def test_llama_cpp_has_a_form_or_a_reason(exports, name):
    expected = KINDS[name].gguf
    if " " not in expected:
        assert choose_form(exports[name]) == expected
        return
    with pytest.raises(ValueError, match=expected):
        write_gguf(exports[name], exports[name] / "model.gguf")
    assert not (exports[name] / "model.gguf").exists()


def test_the_kinds_are_what_their_names_say(exports):
    ropes = {
        "default": ("llama-whole", "llama-prefix", "llama-strided"),
        "longrope": ("llama-arbitrary", "qwen2-arbitrary"),
    }
    for rope, names in ropes.items():
        assert all(load_config(exports[name])["rope_parameters"]["rope_type"] == rope for name in names)
    assert load_config(exports["llama-undivided"])["model_type"] == "mistral"


def test_dropped_factors_are_refused_and_would_be_noticed(llama_cpp, tmp_path, monkeypatch):
    """This is what llama.cpp's own converter writes."""
    folder = write_export(KINDS["llama-arbitrary"], tmp_path / "dropped")
    tensors = gguf_export._tensors
    monkeypatch.setattr(
        gguf_export, "_tensors", lambda *given: (pair for pair in tensors(*given) if pair[0] != "rope_freqs.weight")
    )
    with pytest.raises(ValueError, match=r"differs from its checkpoint in rope_freqs\.weight"):
        write_gguf(folder, folder / "model.gguf", "f32")
    monkeypatch.setattr(gguf_export, "_check", lambda *_: None)
    rounded = shutil.copytree(folder, tmp_path / "rounded")
    write_gguf(folder, folder / "model.gguf", "f32")
    write_gguf(rounded, rounded / "model.gguf", "f16")
    for said in ask("llama.cpp", [folder, rounded], llama_cpp).values():
        assert not said.agrees
        assert said.largest_difference > 0.2


@pytest.mark.usefixtures("in_llama_cpp")
def test_wrong_prompts_and_folders_without_any_differ(llama_cpp, exports, tmp_path):
    bare, wrong = tmp_path / "bare", tmp_path / "wrong"
    bare.mkdir()
    shutil.copytree(exports["llama-whole"], wrong)
    shutil.copy(exports["llama-strided"] / PROMPTS, wrong / PROMPTS)
    said = ask("llama.cpp", [bare, wrong], llama_cpp)
    assert said[bare].error == f"{bare} has no certificate_prompts.json, so it is no export of budwood"
    assert said[wrong].error is None
    assert not said[wrong].agrees


def test_the_table_says_what_opens_and_why_the_rest_does_not(vllm, tmp_path):
    """Heads of 50, the dimension of the quickstart's first winner, run in llama.cpp and not in vLLM."""
    folder = write_export(Kind("llama tied", uniform(range(25)), "llama"), tmp_path / "fifty")
    table = open_everywhere(folder, ServingSettings(gguf="f16", engines=vllm))
    assert table["transformers"].opens
    assert table["llama.cpp"].opens
    assert not table["vllm"].opens
    assert "Unsupported CPU attention configuration: head_dim=50" in table["vllm"].how
    judged = open_everywhere(folder, ServingSettings())
    assert (judged["vllm"].opens, judged["llama.cpp"].opens) == (None, None)
    assert judged["vllm"].how == "its CPU kernels take no heads of 50"
    assert judged["llama.cpp"].how.endswith("in the form of llama.cpp's llama")
