"""Greedy continuations are those that transformers generates, and what is counted of them is right."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers import TEACHERS, architecture_of, families, tiny_teacher

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation.continuations import (
    agreement,
    continuation_flops,
    continue_prompts,
    distinct,
    heldout_prompts,
    repetition,
)
from budwood.models.teacher import byte_tokenizer

TOKENIZER = byte_tokenizer()
EOS = TOKENIZER.eos_token_id


def ids_of(text: str) -> list[int]:
    return TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids


PROMPTS = [ids_of("the river"), ids_of("a bud, no")]
(RIVERS_END, NOS_END, X) = ids_of("rox")


@pytest.mark.parametrize("name", families())
def test_every_family_writes_what_transformers_generates(name: str) -> None:
    family, tied = TEACHERS[name]
    model = tiny_teacher(family, tied=tied, vocab_size=260)
    written = continue_prompts(model, PROMPTS, eos_token_id=EOS, new_tokens=9)
    for prompt, found in zip(PROMPTS, written, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": EOS, "pad_token_id": 0}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        assert found == expected.tolist()
    assert agreement(model, PROMPTS, written) == [1.0, 1.0], "a model agrees with itself"


def test_sequences_begin_as_those_of_the_corpus() -> None:
    model = tiny_teacher("llama", tied=True, vocab_size=260)
    begun = continue_prompts(model, PROMPTS[:1], eos_token_id=EOS, bos_token_id=259)
    assert begun == continue_prompts(model, [[259, *PROMPTS[0]]], eos_token_id=EOS)
    assert begun != continue_prompts(model, PROMPTS[:1], eos_token_id=EOS)
    assert agreement(model, PROMPTS[:1], begun, bos_token_id=259) == [1.0]


def test_the_end_of_a_document_ends_its_text_alone() -> None:
    """The head follows the embedding of the last token: "r" is followed by the end, all else by "x"."""
    model = tiny_teacher("llama", tied=False, vocab_size=260)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    with torch.no_grad():
        head.zero_()
        for layer in model.base_model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        head[EOS], head[X] = embedding[RIVERS_END], embedding[NOS_END] + embedding[X]
    written = continue_prompts(model, PROMPTS, eos_token_id=EOS, new_tokens=3)
    assert written == [[EOS], [X] * 3]
    # Rows of unlike length are compared as far as they go.
    assert agreement(model, PROMPTS, written) == [1.0, 1.0]
    assert agreement(model, PROMPTS, [[EOS], [X, X, EOS]]) == [1.0, pytest.approx(2 / 3)]


def test_random_weights_agree_with_another_model_by_chance() -> None:
    """One token in 260 by chance; 48 tokens of 16 prompts."""
    own, other = tiny_teacher("llama", tied=False, vocab_size=260), tiny_teacher("qwen3", tied=False, vocab_size=260)
    prompts = [[(7 * place + step) % 256 for step in range(8)] for place in range(16)]
    shares = agreement(own, prompts, continue_prompts(other, prompts, eos_token_id=EOS))
    assert sum(shares) / len(shares) < 0.1


def test_the_cost_by_hand() -> None:
    """Nine tokens in one pass, then one at context 10 and one at 11; the third that is written is not read.

    The head, 260 x 48, reads the last of the nine.
    """
    architecture = architecture_of(tiny_teacher("llama", tied=True, vocab_size=260))
    forward = {context: forward_flops_per_token(architecture, context=context) for context in (9, 10, 11)}
    assert continuation_flops(architecture, 9, 3) == 9 * forward[9] - 8 * 2 * 260 * 48 + forward[10] + forward[11]


def test_variety_by_hand() -> None:
    """Of 1 2 1 2 1 2 the pairs are 12 21 12 21 12, and the fours 1212 2121 1212."""
    again = [1, 2, 1, 2, 1, 2]
    assert (repetition(again), distinct(again)) == pytest.approx((1 / 3, 2 / 5))
    assert {(repetition(ids), distinct(ids)) for ids in ([1, 2, 3], [5], [])} == {(0.0, 1.0)}


@given(st.lists(st.integers(0, 3), max_size=30))
def test_variety_is_a_share(ids: list[int]) -> None:
    assert 0 <= repetition(ids) < 1
    assert 0 < distinct(ids) <= 1


def test_prompts_come_from_every_source_in_turn_and_end_before_a_word() -> None:
    """A letter after the third byte moves the prompt; a document without a word's end soon has none."""
    texts = {"one": ["short", "abcd efgh", "abc efgh", "xyzefghijk l", "xyz\nefgh"], "two": ["jkl mnop"]}
    found = heldout_prompts(texts, TOKENIZER, num_prompts=2, num_tokens=3)
    assert found == {text: ids_of(text) for text in ("bcd", "jkl")}
    assert list(heldout_prompts(texts, TOKENIZER, num_prompts=9, num_tokens=3)) == ["bcd", "jkl", "abc", "xyz"]
    assert heldout_prompts({"one": ["too short"]}, TOKENIZER) == {}


def test_special_tokens_that_a_document_writes_are_text() -> None:
    name = TOKENIZER.eos_token
    texts = {"one": [f"{name} and so on, as long again, and more"]}
    (ids,) = heldout_prompts(texts, TOKENIZER, num_tokens=len(name)).values()
    assert len(ids) == len(name)
    assert EOS not in ids
