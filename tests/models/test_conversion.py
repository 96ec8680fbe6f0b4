"""Code that comes with a checkpoint is run once and compared; tokenizers give text back."""

import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from teachers import tiny_teacher
from transformers import AutoModelForCausalLM

from budwood.models.checkpoint import load_tokenizer
from budwood.models.conversion import check_tokenizer
from budwood.models.probe import TEXT, largest_difference
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher

OWN_MODEL = """
import torch
from transformers import LlamaForCausalLM
class Own(LlamaForCausalLM):
    def forward(self, *arguments, **named):
        output = super().forward(*arguments, **named)
        output.logits = output.logits {change}
        return output
"""
OWN_TOKENIZER = """
from transformers import PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast):
    def __call__(self, text, **named):
        return super().__call__(text{change}, **named)
"""
SLOW_TOKENIZER = """
from transformers import PythonBackend
class Own(PythonBackend):
    vocab_size = 257
    def get_vocab(self): return {chr(i): i for i in range(257)}
    def _tokenize(self, text): return list(text)
    def _convert_token_to_id(self, token): return ord(token) % 257
    def _convert_id_to_token(self, index): return chr(index)
    def save_vocabulary(self, *a, **k): return ()
"""


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "teacher"
    tiny_teacher("llama", tied=True, vocab_size=257, max_position_embeddings=512).to(torch.bfloat16).save_pretrained(
        target
    )
    byte_tokenizer().save_pretrained(target)
    return target


def add(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def with_model_code(folder, code):
    (folder / "modeling.py").write_text(code)
    add(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})


def with_tokenizer_code(folder, code):
    (folder / "tokenization.py").write_text(code)
    add(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization.Own"]}, tokenizer_class="Own")


def fetch(folder, tmp_path, *, trust=True):
    return fetch_teacher(TeacherSettings(model=str(folder), trust_remote_code=trust), tmp_path / "work")


@pytest.mark.parametrize("stated", ["bfloat16", "float32"])
def test_code_that_computes_the_same_is_converted_in_the_precision_of_its_files(folder, tmp_path, stated):
    """Whatever the config says, and whatever tables of the code are stored as."""
    with_model_code(folder, OWN_MODEL.format(change="* 1"))
    add(folder / "config.json", dtype=stated)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.inv_freq": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    fetched = fetch(folder, tmp_path)
    config = json.loads((fetched.checkpoint.folder / "config.json").read_text())
    assert ("auto_map" not in config, config["architectures"], config["dtype"]) == (
        True,
        ["LlamaForCausalLM"],
        "bfloat16",
    )
    ids = torch.arange(12)[None]
    plain, converted = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32)(ids).logits
        for each in (folder, fetched.checkpoint.folder)
    )
    assert torch.equal(plain, converted)


def test_float32_weights_are_not_rounded_to_what_the_config_says(folder, tmp_path):
    with_model_code(folder, OWN_MODEL.format(change="* 1"))
    weights = {name: weight.float() * 1.001 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    converted = load_file(fetch(folder, tmp_path).checkpoint.folder / "model.safetensors")
    assert all(torch.equal(converted[name], weight) for name, weight in weights.items())


WINDOWED = "+ (torch.arange(output.logits.shape[1]) >= 500)[None, :, None]"
"""Begins where a window or a scaling of positions would."""


@pytest.mark.parametrize("change", ["* 2", "+ float('nan')", "* float('inf')", WINDOWED])
def test_code_that_computes_something_else_is_refused(folder, tmp_path, change):
    with_model_code(folder, OWN_MODEL.format(change=change))
    with pytest.raises(ValueError, match="does not compute what the stock class LlamaForCausalLM computes"):
        fetch(folder, tmp_path)
    assert not list((tmp_path / "work").glob("converted-*"))


def test_code_that_changed_is_converted_anew(folder, tmp_path):
    with_model_code(folder, OWN_MODEL.format(change="* 1"))
    first = fetch(folder, tmp_path)
    assert fetch(folder, tmp_path).checkpoint.folder == first.checkpoint.folder
    with_model_code(folder, OWN_MODEL.format(change="+ 0"))
    assert fetch(folder, tmp_path).checkpoint.folder != first.checkpoint.folder


def test_a_conversion_that_was_altered_is_made_anew(folder, tmp_path, caplog):
    with_model_code(folder, OWN_MODEL.format(change="* 1"))
    before = fetch(folder, tmp_path)
    assert fetch(folder, tmp_path).checkpoint.fingerprint == before.checkpoint.fingerprint
    assert "rebuilt" not in caplog.text
    weights = before.checkpoint.folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fetch(folder, tmp_path).checkpoint.fingerprint == before.checkpoint.fingerprint
    assert "is damaged (model.safetensors changed since it was written): it is rebuilt" in caplog.text


def test_code_of_another_repository_is_refused(folder, tmp_path):
    add(folder / "config.json", auto_map={"AutoModelForCausalLM": "some/body--modeling.Own"})
    with pytest.raises(ValueError, match=r"code of another repository \(some/body--modeling.Own\)"):
        fetch(folder, tmp_path)


def test_a_tokenizer_with_code_is_converted_where_its_core_does_the_same(folder, tmp_path):
    with_tokenizer_code(folder, OWN_TOKENIZER.format(change=""))
    with pytest.raises(ValueError, match=r"tokenization.Own.*trust_remote_code: true"):
        fetch(folder, tmp_path, trust=False)
    tokenizer = load_tokenizer(fetch(folder, tmp_path).checkpoint.folder)
    assert tokenizer(TEXT).input_ids == byte_tokenizer()(TEXT).input_ids
    assert tokenizer.eos_token_id == 256


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (OWN_TOKENIZER.format(change=".upper()"), "makes other tokens than its fast core; put a tokenizer.json"),
        (SLOW_TOKENIZER, "has no fast core; put a tokenizer.json there"),
    ],
)
def test_a_tokenizer_that_cannot_be_converted_is_refused(folder, tmp_path, code, expected):
    with_tokenizer_code(folder, code)
    with pytest.raises(ValueError, match=expected):
        fetch(folder, tmp_path)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def sentencepiece(request):
    words, model = TEXT.split(), io.BytesIO()
    sentences = [" ".join(words[place : place + 12]) for place in range(len(words))] * 3
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=400,
        model_type=request.param,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture
def alone(sentencepiece, tmp_path):
    """Return a maker of a folder with tokenizer.model alone, to be read under some class."""

    def write(name=None):
        (tmp_path / "tokenizer.model").write_bytes(sentencepiece)
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        if name:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        return tmp_path

    return write


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "\0" * 40])
def test_a_damaged_sentencepiece_model_is_named(alone, content):
    folder = alone()
    (folder / "tokenizer.model").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer.model is no sentencepiece model: if it should be one, fetch it"):
        check_tokenizer(folder)


def test_a_sentencepiece_model_alone_makes_the_tokens_of_sentencepiece(alone, sentencepiece):
    folder = alone()
    check_tokenizer(folder)
    expected = SentencePieceProcessor(model_proto=sentencepiece).encode(TEXT)
    assert load_tokenizer(folder)(TEXT, add_special_tokens=False).input_ids == expected


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "T5Tokenizer"])
def test_a_vocabulary_read_under_the_wrong_class_is_refused(alone, name):
    with pytest.raises(ValueError, match=rf"read as {name}, (turns|makes).*correct `tokenizer_class`"):
        check_tokenizer(alone(name))


def test_a_vocabulary_without_english_is_tried_on_its_own_words(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    check_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"{tmp_path}: its tokenizer cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_what_is_not_finite_differs_infinitely(damage):
    whole, broken = torch.ones(3), torch.tensor([1.0, damage, 1.0])
    assert largest_difference(whole, broken) == largest_difference(broken, broken) == float("inf")
    assert largest_difference(whole, torch.ones(4)) == float("inf")
    assert largest_difference(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 4.0])) == 0.25
