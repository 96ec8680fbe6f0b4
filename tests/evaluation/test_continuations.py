"""Greedy continuations are those that transformers generates, and their cost is counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers import TEACHERS, architecture_of, tiny_teacher

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation.continuations import continue_prompts, heldout_prompts
from budwood.models.teacher import byte_tokenizer

PROMPTS = ["the river", "a"]


@pytest.mark.parametrize("family", sorted({family for family, _ in TEACHERS.values()}))
def test_every_family_writes_what_transformers_generates(family: str) -> None:
    model, tokenizer = tiny_teacher(family, tied=True, vocab_size=260), byte_tokenizer()
    for found in continue_prompts(model, tokenizer, PROMPTS, new_tokens=9):
        ids = torch.tensor([tokenizer(found.prompt)["input_ids"]])
        options = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        assert found.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert (found.prompt_tokens, found.new_tokens) == (ids.shape[1], len(expected))


def test_prompts_are_read_as_the_text_of_a_corpus_is() -> None:
    """Control tokens that are written in them are text, and sequences begin with the corpus's token."""
    model, tokenizer = tiny_teacher("llama", tied=True, vocab_size=260), byte_tokenizer()
    prompt = f"a{tokenizer.eos_token}"
    (plain,) = continue_prompts(model, tokenizer, [prompt])
    (begun,) = continue_prompts(model, tokenizer, [prompt], bos_token_id=259)
    assert (plain.prompt_tokens, begun.prompt_tokens) == (len(prompt), len(prompt) + 1)
    assert plain.text != begun.text


def test_the_end_of_a_document_ends_the_text() -> None:
    model, tokenizer = tiny_teacher("llama", tied=False, vocab_size=260), byte_tokenizer()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()
        for layer in model.base_model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        # The head follows the embedding of the last token: every token is followed by the end.
        head[tokenizer.eos_token_id] = model.get_input_embeddings().weight[tokenizer("r")["input_ids"][-1]]
    (found,) = continue_prompts(model, tokenizer, ["river"])
    assert (found.text, found.new_tokens) == ("", 1)


def test_the_cost_by_hand() -> None:
    """Nine bytes in one pass, then one token at context 10 and one at 11."""
    model, tokenizer = tiny_teacher("llama", tied=True, vocab_size=260), byte_tokenizer()
    (found,) = continue_prompts(model, tokenizer, PROMPTS[:1], new_tokens=3)
    architecture = architecture_of(model)
    forward = {context: forward_flops_per_token(architecture, context=context) for context in (9, 10, 11)}
    assert (found.prompt_tokens, found.num_tokens) == (9, 11)
    assert found.flops(architecture) == 9 * forward[9] + forward[10] + forward[11]


def test_prompts_come_from_every_source_in_turn() -> None:
    texts = {"one": ["too short", "a b  c d e", "f g h i"], "two": ["j\nk l m n"]}
    assert heldout_prompts(texts, num_prompts=3, num_words=2) == ["a b", "j\nk", "f g"]
    assert heldout_prompts(texts, num_prompts=9, num_words=2) == ["a b", "j\nk", "f g"]
    assert heldout_prompts({"one": ["too short"]}) == []


@given(st.lists(st.text(" ab\n", max_size=40), max_size=5), st.integers(1, 5))
def test_a_prompt_begins_its_document(documents: list[str], num_words: int) -> None:
    for prompt in heldout_prompts({"one": documents}, num_prompts=9, num_words=num_words):
        assert len(prompt.split()) == num_words
        begun = [text for text in documents if text.lstrip().startswith(prompt)]
        assert max(len(text.split()) for text in begun) >= 2 * num_words
