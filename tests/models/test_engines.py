"""What is known of an export without an engine, and what a user who lacks one reads."""

import json

import pytest
from teachers import tiny_teacher

from budwood.models.checkpoint import save_checkpoint
from budwood.models.engines import ask, open_everywhere, serving_commands
from budwood.models.fingerprint import fingerprint
from budwood.models.settings import ServingSettings
from budwood.models.teacher import byte_tokenizer
from budwood.records.serving import CHECK, Opening


@pytest.mark.parametrize(
    ("model_type", "head_dim", "misread"),
    [("qwen2", 8, False), ("qwen2", None, False), ("qwen2", 6, True), ("mistral", 6, False)],
)
def test_vllm_misreads_a_qwen2_whose_heads_do_not_fill_the_hidden_size(tmp_path, model_type, head_dim, misread):
    config = {"model_type": model_type, "hidden_size": 32, "num_attention_heads": 4, "head_dim": head_dim}
    (tmp_path / "config.json").write_text(json.dumps(config))
    commands = serving_commands(tmp_path, {"vllm": Opening(opens=True, how="tried")})
    assert commands == ["vllm serve ." + " --model-impl transformers" * misread]


@pytest.mark.parametrize(
    ("fields", "misread"),
    [
        ({"model_type": "qwen3", "attention_bias": True}, True),
        ({"model_type": "qwen3", "attention_bias": False}, False),
        ({"model_type": "llama", "attention_bias": True}, False),
        ({"model_type": "ministral3"}, True),
        ({"model_type": "budwood_ministral3"}, False),
    ],
)
def test_vllm_misreads_biased_qwen3_and_ministral3(tmp_path, fields, misread):
    (tmp_path / "config.json").write_text(json.dumps(fields | {"hidden_size": 32, "num_attention_heads": 4}))
    commands = serving_commands(tmp_path, {"vllm": Opening(opens=True, how="tried")})
    assert commands == ["vllm serve ." + " --model-impl transformers" * misread]


def test_commands_are_given_for_engines_that_open_the_folder_or_were_not_tried(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "budwood_llama", "hidden_size": 8, "num_attention_heads": 1, "auto_map": {}})
    )
    unseen, seen, refused = (Opening(opens=opens, how="so") for opens in (None, True, False))
    vllm, llama = "vllm serve . --trust-remote-code", "llama-server --model model.gguf"
    assert serving_commands(tmp_path, {"transformers": seen, "vllm": refused, "llama.cpp": refused}) == []
    assert serving_commands(tmp_path, {"vllm": unseen, "llama.cpp": unseen}) == [vllm], "there is no file for llama.cpp"
    (tmp_path / "model.gguf").touch()
    assert serving_commands(tmp_path, {"vllm": unseen, "llama.cpp": unseen}) == [vllm, llama]
    assert serving_commands(tmp_path, {"vllm": seen, "llama.cpp": seen}) == [vllm, llama]
    assert serving_commands(tmp_path, {"vllm": seen, "llama.cpp": refused}) == [vllm]


def test_an_engine_that_is_not_installed_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"engines: vllm is not installed in .*; `make engines` installs it"):
        ask("vllm", [tmp_path], tmp_path)


@pytest.mark.parametrize(("hidden_size", "misread"), [(192, False), (96, True)])
def test_the_certificate_warns_of_what_vllm_misreads(tmp_path, hidden_size, misread):
    model = tiny_teacher("qwen2", tied=True, vocab_size=257, head_dim=32, hidden_size=hidden_size)
    folder = save_checkpoint(model, byte_tokenizer(), tmp_path / "qwen2")
    said = open_everywhere(folder, ServingSettings())["vllm"]
    assert said.opens is None
    assert ("only with `--model-impl transformers`" in said.how) is misread


@pytest.mark.parametrize(("types", "listed"), [("sfsf", False), ("sffs", True)])
def test_the_certificate_names_the_version_of_llama_cpp_that_reads_which_layers_have_a_window(tmp_path, types, listed):
    layer_types = [{"s": "sliding_attention", "f": "full_attention"}[kind] for kind in types]
    model = tiny_teacher("gemma2", tied=True, vocab_size=257, layer_types=layer_types)
    said = open_everywhere(save_checkpoint(model, byte_tokenizer(), tmp_path / "gemma2"), ServingSettings())
    assert ("older versions than 0.5 overlook which layers have a window" in said["llama.cpp"].how) is listed


def test_the_check_is_no_part_of_the_model(tmp_path):
    """The script beside a layer-wise model is code too, but not the model's."""
    folder = save_checkpoint(tiny_teacher("llama", tied=True, vocab_size=257), byte_tokenizer(), tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    before = fingerprint(folder)
    (folder / CHECK).write_text("print()")
    assert fingerprint(folder) == before
