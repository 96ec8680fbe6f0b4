"""Write a tokenizer into a GGUF file in llama.cpp's words."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from budwood.arch.config import HFConfig
from budwood.models.vocabulary import TokenizerFile, merges_of, vocabulary_of

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BY_THREE, _BY_ONE = _WORDS + r"\p{N}{1,3}" + _REST, _WORDS + r"\p{N}" + _REST

PRE_TOKENIZERS: Mapping[tuple[tuple[str, ...], bool], str] = {
    (("gpt2",), False): "gpt-2",
    (("digits", "gpt2"), False): "smollm",
    ((_BY_THREE,), True): "llama-bpe",
    ((_BY_THREE,), False): "dbrx",
    ((_BY_ONE,), False): "qwen2",
}
"""llama.cpp's name of a pre-tokenizer, by its splits and by whether whole words in the vocabulary need no merges; the
patterns are those of GPT-2, SmolLM2, Llama 3, OLMo 2 and Qwen 2."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"
_NO_MERGE = "ÿ ÿ"
"""llama.cpp wants at least one merge; no UTF-8 text has these bytes."""


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: HFConfig) -> None:
    """Add vocabulary, merges, special tokens and chat template.

    Args:
        writer: of the file.
        tokenizer: of the checkpoint.
        config: of the model, which may have more rows than the tokenizer has tokens, and several ends of a text.

    Raises:
        ValueError: llama.cpp has no such tokenizer.
    """
    if not tokenizer.is_fast:
        raise ValueError("the tokenizer has no tokenizer.json: GGUF needs its merges")
    described: TokenizerFile = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise ValueError(f"llama.cpp has no form for a {model['type']} tokenizer; it takes byte-pair encodings")
    vocab_size = int(config["vocab_size"])
    vocabulary = vocabulary_of(described)
    if max(vocabulary.values()) >= vocab_size:
        raise ValueError(f"the tokenizer has {max(vocabulary.values()) + 1} tokens, the model {vocab_size}")
    merges = [" ".join(pair) for pair in merges_of(model)]
    tokens, kinds = _tokens(described, vocabulary, vocab_size)
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_prepends_space(described))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(described))
        writer.add_token_merges(merges or [_NO_MERGE])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special_tokens(writer, tokenizer, config)


def _pre_tokenizer(described: TokenizerFile) -> str:
    """Return llama.cpp's name for the way a text is split before pairs are merged.

    Raises:
        ValueError: it knows none.
    """
    normalizer = (described["normalizer"] or {}).get("type", "NFC")
    splits = tuple(split for step in _steps(described["pre_tokenizer"]) for split in _split(step))
    known = PRE_TOKENIZERS.get((splits, bool(described["model"].get("ignore_merges"))))
    if known is None or normalizer != "NFC":
        raise ValueError(
            f"llama.cpp has no name here for a tokenizer that normalises by {normalizer} and splits by {splits}"
        )
    return known


def _steps(step: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    return [one for each in step["pretokenizers"] for one in _steps(each)] if step["type"] == "Sequence" else [step]


def _split(step: Mapping[str, Any]) -> tuple[str, ...]:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex}:
            return ("gpt2",) if regex else ()
        case {"type": "Digits", "individual_digits": True}:
            return ("digits",)
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return (pattern,)
    return (json.dumps(step),)


def _tokens(
    described: TokenizerFile, vocabulary: Mapping[str, int], vocab_size: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Return the text and the kind of every id."""
    added = {token["id"]: token for token in described["added_tokens"]}
    texts = {position: text for text, position in vocabulary.items()}
    unknown = described["model"].get("unk_token")
    kinds = []
    for position in range(vocab_size):
        text = texts.get(position)
        if text is None:
            kinds.append(gguf.TokenType.UNUSED)
        elif text == unknown:
            kinds.append(gguf.TokenType.UNKNOWN)
        elif position in added:
            special = added[position]["special"]
            kinds.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        elif described["model"].get("byte_fallback") and _BYTE.fullmatch(text):
            kinds.append(gguf.TokenType.BYTE)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    return [texts.get(position, f"[PAD{position}]") for position in range(vocab_size)], kinds


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return a score for every token, such that what is merged first scores highest."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _prepends_space(described: TokenizerFile) -> bool:
    normalizer = described["normalizer"] or {}
    before = [normalizer, *normalizer.get("normalizers", ())]
    prepended = any(step.get("type") == "Prepend" and step.get("prepend") == _SPACE for step in before)
    return prepended or any(
        step["type"] == "Metaspace" and step.get("prepend_scheme") != "never"
        for step in _steps(described["pre_tokenizer"])
    )


def _add_special_tokens(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: HFConfig) -> None:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    named = config.get("eos_token_id")
    ends = [] if end is None else [end]
    ends += [other for other in (named if isinstance(named, list) else [named]) if other not in {end, None}]
    # Where the tokenizer has none; without any llama.cpp takes token 11.
    first = config.get("bos_token_id") if begin is None else begin
    if first is not None:
        writer.add_bos_token_id(first)
    if ends:
        writer.add_eos_token_id(ends[0])
    if ends[1:]:
        writer.add_eot_token_id(ends[1])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    wrapped = tokenizer("a").input_ids
    writer.add_add_bos_token(begin is not None and wrapped[0] == begin)
    writer.add_add_eos_token(end is not None and wrapped[-1] == end)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
