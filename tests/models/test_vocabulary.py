import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers import tiny_teacher
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from budwood.models.checkpoint import Checkpoint, load_generation, save_checkpoint
from budwood.models.vocabulary import dropped_head, kept_ids, trim_checkpoint, trim_tokenizer

TEXT = [
    "When the rains came late that year, the gardener walked along the old wall and counted 27 apple trees.",
    "Not one of them will bear, she said; in spring a graft takes, in autumn it does not.",
    "def prune(tree): return [branch for branch in tree if branch.alive]",
    "The tree that the gardener counted was the oldest tree along the wall, and it will bear in autumn.",
]
SMALLEST, SIZE = 270, 420
END, UNKNOWN = "<|end|>", "<unk>"


def byte_level(*, ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, special_tokens=[END])
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [END, UNKNOWN, *(f"<0x{value:02X}>" for value in range(256))]
    tokenizer.train_from_iterator(TEXT * 4, trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special))
    described = json.loads(tokenizer.to_str())
    # The trainer marks bytes as special tokens; in tokenizers made of sentencepiece models they are none.
    described["added_tokens"] = described["added_tokens"][:2]
    return Tokenizer.from_str(json.dumps(described))


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.UnigramTrainer(
        vocab_size=SIZE, initial_alphabet=alphabet, special_tokens=[END, UNKNOWN], unk_token=UNKNOWN
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer


KINDS = {
    "byte level": byte_level(),
    "whole words first": byte_level(ignore_merges=True),
    "byte fallback": sentencepiece_like(),
    "unigram": unigram(),
}


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END, chat_template="{{ x }}")


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def count(tokenizer, texts) -> np.ndarray:
    return np.bincount(np.concatenate([encode(tokenizer, text) for text in texts]), minlength=SIZE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    model = tiny_teacher("llama", tied=False, vocab_size=SIZE + 4, bos_token_id=0, eos_token_id=0, pad_token_id=None)
    model.generation_config = GenerationConfig(eos_token_id=[0, 7], bos_token_id=0)
    return Checkpoint.open(save_checkpoint(model, fast(KINDS["byte level"]), tmp_path_factory.mktemp("whole")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(place=st.integers(0, SIZE), text=st.text() | st.sampled_from(TEXT), seed=st.integers(0, 3))
def test_every_text_comes_back_and_kept_tokens_are_made_as_before(checkpoint, kind, place, text, seed):
    whole = fast(KINDS[kind])
    size = SMALLEST + place % (len(whole) - SMALLEST)
    counts = np.random.default_rng(seed).permutation(count(whole, TEXT)) if seed else count(whole, TEXT)
    kept = kept_ids(checkpoint, whole, counts, size)
    trimmed = trim_tokenizer(whole, kept)
    assert len(trimmed) == len(kept) == len(set(kept)) == size
    before, after = encode(whole, text), encode(trimmed, text)
    assert trimmed.decode(after) == whole.decode(before)
    if set(before) <= set(kept):
        assert [kept[index] for index in after] == before
    assert (trimmed.eos_token, trimmed.bos_token, trimmed.chat_template) == (END, END, "{{ x }}")


def test_the_most_frequent_stay_with_what_they_are_made_of(checkpoint):
    vocab = {char: index for index, char in enumerate("abcd")} | {"ab": 4, "cd": 5, "abc": 6, "abcd": 7, "bc": 8}
    merges = [("a", "b"), ("c", "d"), ("b", "c"), ("ab", "c"), ("ab", "cd")]
    whole = fast(Tokenizer(models.BPE(vocab=vocab, merges=merges)))
    counts = np.zeros(10, dtype=np.int64)
    counts[7], counts[6], counts[8] = 3, 2, 1
    # The end of a text is an id of its own; "abcd" is made of "ab" and "cd", never of "abc".
    plain = replace(checkpoint, folder=checkpoint.folder / "none", config={})
    assert kept_ids(plain, whole, counts, 8) == [0, 1, 2, 3, 4, 5, 7, 9]
    # Two more do not fit where there is room for one: the next that does is taken.
    assert kept_ids(plain, whole, counts, 6) == [0, 1, 2, 3, 8, 9]
    trimmed = trim_tokenizer(whole, [0, 1, 2, 3, 4, 5, 7, 9])
    assert json.loads(trimmed.backend_tokenizer.to_str())["model"]["merges"] == [["a", "b"], ["c", "d"], ["ab", "cd"]]
    assert encode(trimmed, "abcdabc") == [6, 4, 2]


def test_the_special_tokens_around_a_text_are_numbered_anew(checkpoint):
    whole = fast(KINDS["byte level"])
    kept = kept_ids(checkpoint, whole, count(whole, TEXT), 300)
    assert trim_tokenizer(whole, kept)("a tree").input_ids[0] == kept.index(whole.eos_token_id)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_the_smaller_model_has_the_logits_of_the_whole_one(family, tied, tmp_path):
    whole = fast(KINDS["byte level"])
    model = tiny_teacher(family, tied=tied, vocab_size=SIZE + 4, bos_token_id=0, eos_token_id=0, pad_token_id=None)
    model.generation_config = GenerationConfig(eos_token_id=[0, 7], bos_token_id=0)
    teacher = Checkpoint.open(save_checkpoint(model, whole, tmp_path / "whole"))
    kept = kept_ids(teacher, whole, count(whole, TEXT), 340)
    assert 7 in kept  # generation ends there
    smaller = Checkpoint.open(trim_checkpoint(teacher, kept, tmp_path / "trimmed"))
    assert smaller.architecture == replace(teacher.architecture, vocab_size=340)
    assert load_generation(smaller.folder).eos_token_id == [kept.index(0), kept.index(7)]
    ids = torch.tensor([kept[5:35]])
    trimmed = smaller.load_model(torch.float32).eval()
    with torch.no_grad():
        expected = model.eval()(ids).logits[..., kept]
        actual = trimmed(torch.arange(5, 35)[None]).logits
    torch.testing.assert_close(actual, expected)


def test_ids_below_zero_stand_for_none(tmp_path):
    """Old conversions of LLaMA pad with -1, which no list of rows may be begun with."""
    whole = fast(KINDS["byte level"])
    model = tiny_teacher("llama", tied=True, vocab_size=SIZE, num_hidden_layers=1)
    folder = save_checkpoint(model, whole, tmp_path / "whole")
    for name, named in (("config.json", -1), ("generation_config.json", [0, -1])):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": -1, "eos_token_id": named}))
    teacher = Checkpoint.open(folder)
    kept = kept_ids(teacher, whole, count(whole, TEXT), 300)
    assert (kept[0], len(kept)) == (0, 300)
    smaller = Checkpoint.open(trim_checkpoint(teacher, kept, tmp_path / "trimmed"))
    assert (smaller.config["pad_token_id"], smaller.config["eos_token_id"]) == (None, None)
    generation = load_generation(smaller.folder)
    assert (generation.pad_token_id, generation.eos_token_id) == (None, [0])


def test_generation_settings_name_the_ids_that_are_kept(tmp_path):
    model = tiny_teacher("llama", tied=True, vocab_size=SIZE, num_hidden_layers=1)
    model.generation_config = GenerationConfig(
        eos_token_id=0,
        forced_eos_token_id=7,
        suppress_tokens=[2, 3, 9],
        begin_suppress_tokens=[3],
        bad_words_ids=[[5], [2, 4], [3, 4]],
        sequence_bias=[[[5, 9], -3.0], [[3], 1.0]],
    )
    whole = fast(KINDS["byte level"])
    teacher = Checkpoint.open(save_checkpoint(model, whole, tmp_path / "whole"))
    assert 7 in kept_ids(teacher, whole, np.zeros(SIZE, dtype=np.int64), 300)
    kept = [index for index in range(SIZE) if index not in {1, 3}]
    generation = load_generation(trim_checkpoint(teacher, kept, tmp_path / "trimmed"))
    found = generation.forced_eos_token_id, generation.suppress_tokens, generation.begin_suppress_tokens
    assert found == (5, [1, 7], None)
    assert (generation.bad_words_ids, generation.sequence_bias) == ([[3], [1, 2]], [[[3, 7], -3.0]])


@pytest.mark.parametrize("stated", ["bfloat16", "float16"])
def test_weights_stay_in_the_precision_in_which_they_are_stored(stated, tmp_path):
    """A config may state another one, which norms of 1e5 do not fit."""
    whole, model = fast(KINDS["byte level"]), tiny_teacher("llama", tied=False, vocab_size=SIZE, num_hidden_layers=1)
    model.model.norm.weight.data.mul_(1e5)
    folder = save_checkpoint(model, whole, tmp_path / "whole")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": stated}))
    smaller = Checkpoint.open(trim_checkpoint(Checkpoint.open(folder), range(300), tmp_path / "trimmed"))
    assert (smaller.stored_dtype, smaller.config["dtype"]) == (torch.float32, "float32")
    trimmed = smaller.load_model(torch.float32)
    assert torch.equal(trimmed.model.norm.weight, model.model.norm.weight)
    assert torch.equal(trimmed.lm_head.weight, model.lm_head.weight[:300])
    assert torch.equal(dropped_head(smaller.folder), model.lm_head.weight[300:])


def test_what_cannot_be_kept_is_refused(checkpoint):
    whole, counts = fast(KINDS["byte level"]), np.ones(SIZE, dtype=np.int64)
    with pytest.raises(ValueError, match=r"teacher.vocabulary=100 must be at least 257"):
        kept_ids(checkpoint, whole, counts, 100)
    with pytest.raises(ValueError, match=f"less than {len(whole)}, the whole"):
        kept_ids(checkpoint, whole, counts, len(whole))
    words = fast(Tokenizer(models.WordLevel({"a": 1, END: 0}, unk_token=END)))
    with pytest.raises(ValueError, match="this WordLevel tokenizer cannot be rewritten"):
        kept_ids(checkpoint, words, counts, 300)
    suffixed = fast(Tokenizer(models.BPE(vocab={"a</w>": 0}, merges=[], end_of_word_suffix="</w>")))
    with pytest.raises(ValueError, match="without prefix or suffix"):
        kept_ids(checkpoint, suffixed, counts, 300)
    few = replace(checkpoint, architecture=replace(checkpoint.architecture, vocab_size=40))
    with pytest.raises(ValueError, match="has no row among the model's 40"):
        kept_ids(few, whole, counts, 300)
