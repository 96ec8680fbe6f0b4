"""Keep part of a vocabulary: of a tokenizer, and of the embedding and the head of its model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from budwood.models.checkpoint import Checkpoint, load_generation, save_checkpoint
from budwood.models.kind import DROPPED_HEAD
from budwood.models.weights import open_tensors, read_tensor

TokenizerFile = dict[str, Any]
"""What a `tokenizer.json` says, in the words of the tokenizers library."""
_NAMED_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id")
_LISTED_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
"""Generation settings about ids, and sequences of ids, that need not be kept."""
_SPACE = "▁"
_WEIGHT = "weight"
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")


def kept_ids(
    teacher: Checkpoint, tokenizer: PreTrainedTokenizerBase, counts: NDArray[np.int64], size: int
) -> list[int]:
    """Return the ids that a vocabulary of some size keeps, in their order.

    Special and added tokens stay, and what encodes any text: bytes, or all single characters where there is no
    fallback to bytes. Then come the most frequent tokens, each with those that byte-pair encoding makes on the way to
    it. A text whose tokens are all kept has the same tokens afterwards.

    Args:
        teacher: whose configuration names further ids that must stay.
        tokenizer: the teacher's.
        counts: [ids] how often text has each token.
        size: ids to keep.

    Raises:
        ValueError: the tokenizer is of a kind that cannot be rewritten, or the size is too small or too large.
    """
    described = _described(tokenizer)
    vocabulary, ways = vocabulary_of(described), _ways(described)
    kept = set(_required(described)) | _named(teacher)
    rows = teacher.architecture.vocab_size
    if max(kept) >= rows:
        raise ValueError(f"teacher.vocabulary: the special token of id {max(kept)} has no row among the model's {rows}")
    if not len(kept) <= size < len(vocabulary):
        raise ValueError(
            f"teacher.vocabulary={size} must be at least {len(kept)}, the special tokens and what any text needs, and "
            f"less than {len(vocabulary)}, the whole vocabulary"
        )
    padded = np.pad(counts, (0, rows))  # text need not have the last ids
    frequent = sorted(
        (index for index in set(vocabulary.values()) - kept if index < rows),
        key=lambda index: (-int(padded[index]), index),
    )
    while len(kept) < size:
        before = len(kept)
        for index in frequent:
            missing = ways.get(index, {index}) - kept
            if len(kept) + len(missing) <= size:
                kept |= missing
        assert len(kept) > before, "the way to some token has only kept ones"
    return sorted(kept)


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer with some of another's ids, renumbered in their order.

    Raises:
        ValueError: the tokenizer is of a kind that cannot be rewritten.
    """
    described, numbers = _described(tokenizer), {old: new for new, old in enumerate(kept)}
    vocabulary = vocabulary_of(described)
    model = described["model"]
    if model["type"] == "BPE":
        model["vocab"] = {token: numbers[old] for token, old in model["vocab"].items() if old in numbers}
        model["merges"] = [pair for pair in merges_of(model) if {*pair, "".join(pair)} <= model["vocab"].keys()]
    else:
        model["vocab"] = [piece for old, piece in enumerate(model["vocab"]) if old in numbers]
        model["unk_id"] = None if model["unk_id"] is None else numbers[model["unk_id"]]
    for token in described["added_tokens"]:
        token["id"] = numbers[token["id"]]
    _renumber(described.get("post_processor"), numbers)
    trimmed = stock_tokenizer(Tokenizer.from_str(json.dumps(described)), tokenizer)
    if trimmed.get_vocab() != {token: numbers[old] for token, old in vocabulary.items() if old in numbers}:
        raise ValueError("teacher.vocabulary: the tokenizer numbers its added tokens in a way that cannot be kept")
    return trimmed


def stock_tokenizer(backend: Tokenizer, original: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Return a tokenizer of transformers' own class with a core, and all else as an original has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=original.model_max_length,
        padding_side=original.padding_side,
        chat_template=original.chat_template,
        **original.special_tokens_map,
    )


def trim_checkpoint(teacher: Checkpoint, kept: Sequence[int], target: Path) -> Path:
    """Write a teacher with some of its ids as a folder, atomically, and return the folder.

    On the kept ids, its logits are those of the whole teacher. The rows of the head that make all other logits are in a
    file of their own.

    Raises:
        ValueError: the tokenizer is of a kind that cannot be rewritten.
    """
    model = teacher.load_model(teacher.stored_dtype)
    numbers, rows = {old: new for new, old in enumerate(kept)}, torch.tensor(kept)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    others = torch.ones(len(head.weight), dtype=torch.bool).index_fill(0, rows, value=False)
    dropped = [head.weight.detach()[others]]
    if (before := dropped_head(teacher.folder)) is not None:
        dropped.append(before)
    for module in {id(module): module for module in (embedding, head)}.values():
        assert isinstance(module, nn.Embedding | nn.Linear)
        for name, parameter in module.named_parameters():
            setattr(module, name, nn.Parameter(parameter.detach()[rows], requires_grad=False))
    model.config.vocab_size = len(kept)
    model.tie_weights()
    generation = load_generation(teacher.folder)
    for settings in (model.config, generation):
        _rename(settings, numbers)
    if generation is not None:
        model.generation_config = generation
    tokenizer = trim_tokenizer(teacher.load_tokenizer(), kept)
    return save_checkpoint(model, tokenizer, target, {DROPPED_HEAD: {_WEIGHT: torch.cat(dropped)}})


def dropped_head(folder: Path) -> Tensor | None:
    """Return [D, F] the output weights of the ids that `trim_checkpoint` dropped; None where it dropped none.

    Raises:
        ValueError: their file is damaged.
    """
    file = folder / DROPPED_HEAD
    return read_tensor(file, _WEIGHT) if file.is_file() else None


def num_dropped_ids(folder: Path) -> int:
    """Return how many ids `trim_checkpoint` dropped.

    Raises:
        ValueError: their file is damaged.
    """
    if not (folder / DROPPED_HEAD).is_file():
        return 0
    with open_tensors(folder / DROPPED_HEAD) as tensors:
        return int(tensors.get_slice(_WEIGHT).get_shape()[0])


def _described(tokenizer: PreTrainedTokenizerBase) -> TokenizerFile:
    """Return the JSON form of a tokenizer of a kind that can be rewritten."""
    if not tokenizer.is_fast:
        raise ValueError("teacher.vocabulary: the tokenizer has no tokenizer.json, only that can be rewritten")
    described: TokenizerFile = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] not in {"BPE", "Unigram"} or any(model.get(affix) for affix in _AFFIXES):
        raise ValueError(
            f"teacher.vocabulary: this {model['type']} tokenizer cannot be rewritten; byte-pair encodings without "
            "prefix or suffix and Unigram models can"
        )
    return described


def vocabulary_of(described: TokenizerFile) -> dict[str, int]:
    """Return the ids of all tokens of a tokenizer in JSON form, added ones among them."""
    vocab, added = described["model"]["vocab"], described["added_tokens"]
    own = vocab if isinstance(vocab, dict) else {piece: index for index, (piece, _) in enumerate(vocab)}
    return own | {token["content"]: token["id"] for token in added}


def _required(described: TokenizerFile) -> Iterator[int]:
    """Give the ids of added tokens, of the token for unknown text, and of what any text can be made of."""
    model, vocabulary = described["model"], vocabulary_of(described)
    yield from (token["id"] for token in described["added_tokens"])
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        yield model["unk_id"]
    elif model.get("unk_token") in vocabulary:
        yield vocabulary[model["unk_token"]]
    if model.get("byte_fallback"):
        # Written in bytes, the mark of a space would not become a space again.
        pieces = [_SPACE, *(f"<0x{value:02X}>" for value in range(256))]
        yield from (vocabulary[piece] for piece in pieces if piece in vocabulary)
    else:
        yield from (index for token, index in vocabulary.items() if len(token) == 1)


def _named(teacher: Checkpoint) -> set[int]:
    """Return the ids that the configurations of a model name; those below zero stand for none."""
    settings = [teacher.config, (load_generation(teacher.folder) or GenerationConfig()).to_dict()]
    found = [each.get(name) for each in settings for name in _NAMED_IDS]
    return {index for value in found for index in (value if isinstance(value, list) else [value]) if _is_id(index)}


def _is_id(index: int | None) -> TypeGuard[int]:
    return index is not None and index >= 0


def _ways(described: TokenizerFile) -> dict[int, set[int]]:
    """Return for every id of a byte-pair encoding the ids that it makes on the way to that one, which included."""
    model = described["model"]
    if model["type"] != "BPE":
        return {}
    vocab, ranks = model["vocab"], {pair: rank for rank, pair in enumerate(merges_of(model))}
    return {index: {vocab[part] for part in _way(token, ranks)} for token, index in vocab.items()}


def _way(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """Return the tokens on the way to one; a token that no merge leads to has no way."""
    parts = list(token)
    made = set(parts)
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, inf), place) for place, pair in enumerate(pairwise(parts)))
        if rank == inf:
            return {token}
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
        made.add(parts[place])
    return made


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of a byte-pair encoding in JSON form, the first to be merged first."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def _renumber(processor: dict[str, Any] | None, numbers: Mapping[int, int]) -> None:
    """Renumber the special tokens that a post-processor puts around texts."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber(part, numbers)
    if processor["type"] == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [numbers[old] for old in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name][1] = numbers[processor[name][1]]


def _rename(settings: PretrainedConfig | GenerationConfig | None, numbers: Mapping[int, int]) -> None:
    """Renumber the ids that settings name, and of those that they list the ones that are kept."""
    for name in _NAMED_IDS:
        value = getattr(settings, name, None)
        if isinstance(value, list):
            setattr(settings, name, [numbers[old] for old in value if _is_id(old)] or None)
        elif value is not None:
            setattr(settings, name, numbers[value] if _is_id(value) else None)
    for name in _LISTED_IDS:
        if (value := getattr(settings, name, None)) is not None:
            renamed = [_renamed(entry, numbers) for entry in value]
            setattr(settings, name, [entry for entry in renamed if entry is not None] or None)
    if isinstance(settings, GenerationConfig) and settings.sequence_bias is not None:
        pairs = [(_renamed(ids, numbers), bias) for ids, bias in settings.sequence_bias]
        settings.sequence_bias = [[ids, bias] for ids, bias in pairs if ids is not None] or None


def _renamed(entry: Any, numbers: Mapping[int, int]) -> Any:
    """Return an id, or ids in lists, in new numbers; None where one of them is not kept."""
    if isinstance(entry, list):
        parts = [_renamed(part, numbers) for part in entry]
        return None if None in parts else parts
    return numbers.get(entry)
