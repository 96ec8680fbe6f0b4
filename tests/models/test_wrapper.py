"""The text part of a Gemma 3 or a Ministral 3 that also sees images becomes a teacher of its own."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import tiny_teacher
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from budwood.models.checkpoint import read_architecture
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, describe_teacher, fetch_teacher

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
IDS = torch.randint(0, 257, (2, 20), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrapped")
    text = tiny_teacher("gemma3_text", tied=True, vocab_size=257).config.to_dict()
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def ministral(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ministral")
    text = tiny_teacher("ministral3", tied=False, vocab_size=257).config.to_dict()
    vision = VISION | {"model_type": "pixtral", "head_dim": 8}
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mistral3ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("naming", ["published", "of transformers"])
def test_the_text_part_of_a_ministral_too(ministral, naming, tmp_path):
    model, source = ministral
    folder = _copy(source, tmp_path / "copy")
    if naming == "of transformers":
        tensors = load_file(folder / "model.safetensors")
        new = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}
        names = {
            name: next((name.replace(a, b) for a, b in new.items() if name.startswith(a)), name) for name in tensors
        }
        save_file({names[name]: tensors[name] for name in tensors}, folder / "model.safetensors", {"format": "pt"})
    fetched = fetch_teacher(TeacherSettings(model=str(folder)), tmp_path / "work")
    assert fetched.checkpoint.architecture.family == "ministral3"
    assert fetched.checkpoint.architecture.tie_word_embeddings is model.config.tie_word_embeddings
    with torch.no_grad():
        assert torch.equal(fetched.checkpoint.load_model(torch.float32)(IDS).logits, model(input_ids=IDS).logits)


def test_a_quantised_wrapper_says_what_to_take_instead(ministral, tmp_path):
    """Ministral 3 Instruct is published in float8, its base model in bfloat16."""
    folder = _copy(ministral[1], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "fp8"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"quantised .*quant_method='fp8'\); take the checkpoint that was quantised"):
        fetch_teacher(TeacherSettings(model=str(folder)), tmp_path / "work")


@pytest.mark.parametrize("naming", ["published", "of transformers"])
def test_the_text_model_computes_what_the_whole_computes(wrapped, naming, tmp_path):
    model, source = wrapped
    folder = _copy(source, tmp_path / "copy")
    if naming == "of transformers":
        tensors = load_file(folder / "model.safetensors")
        names = {name: name.replace("language_model.model.", "model.language_model.") for name in tensors}
        assert names.keys() != set(names.values())
        tensors = {names[name]: tensor for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    settings = TeacherSettings(model=str(folder))
    fetched = fetch_teacher(settings, tmp_path / "work")
    assert fetched.checkpoint.config["model_type"] == "gemma3_text"
    assert describe_teacher(settings) == read_architecture(fetched.checkpoint.folder)
    with torch.no_grad():
        assert torch.equal(fetched.checkpoint.load_model(torch.float32)(IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "llama"},
            "gemma3 with text_config.model_type='llama' is not supported; supported: gemma3_text",
        ),
        ({"num_hidden_layers": 5, "layer_types": None}, "has no tensor 'model.layers.4"),
        ({"num_hidden_layers": 200_000}, "num_hidden_layers=200000 must be between 1 and 1024"),
        ({"intermediate_size": 41}, "has the shape .40, 48., and its config asks for .41, 48."),
    ],
)
def test_what_does_not_fit_is_refused(wrapped, change, message, tmp_path):
    folder = _copy(wrapped[1], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        fetch_teacher(TeacherSettings(model=str(folder)), tmp_path / "work")


def _copy(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
