"""Models and tokenizers that bring code of their own, converted into stock classes and compared with the original."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from sentencepiece import SentencePieceProcessor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from budwood.models.checkpoint import load_config, load_tokenizer, save_sealed
from budwood.models.probe import PROBE_TOLERANCE, TEXT, largest_difference, probe_ids, probe_logits
from budwood.models.vocabulary import stock_tokenizer
from budwood.models.weights import tensor_files, widest_dtype
from budwood.records.strict import naming

_TEXTS = (TEXT, "Zoë, naïve 漢字 🌱", "  two  spaces\n\n\tand a tab", "1 + 1 = 2; x_1 -> y")

_NUM_OWN_TOKENS = 64
_NUM_TOKENS_OF_CODE = 512
"""On which a model with code of its own is compared: windows and scalings of positions may begin late."""


def convert_code(folder: Path, target: Path) -> Path:
    """Run the code of a checkpoint once, and write its weights and tokenizer in stock classes.

    Raises:
        ValueError: the stock classes compute something else.
    """
    config = load_config(folder)
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, use_safetensors=True, dtype=torch.float32
    )
    original = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer = _without_code(folder, original)
    twin = stock_twin(loaded)
    ids = probe_ids(original, config["vocab_size"], config["max_position_embeddings"], _NUM_TOKENS_OF_CODE)
    difference = largest_difference(probe_logits(loaded, ids), probe_logits(twin, ids))
    if not difference <= PROBE_TOLERANCE:
        raise ValueError(
            f"teacher.model: the code in {folder} does not compute what the stock class {type(twin).__name__} computes "
            f"with the same weights (logits differ by {difference:.1e} of the largest); such a model cannot be cut"
        )
    files = tensor_files(folder, config)
    # Beside parameters a file may have tables of its code, of another precision.
    stored = files.keys() & dict(loaded.named_parameters())
    dtype: Any = widest_dtype(files, stored or files)
    return save_sealed(twin.to(dtype), tokenizer, target)


def stock_twin(loaded: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the stock class with the same weights, in float32.

    Transformers refuses to save a model that carries the trace of its quantisation, and a class that came with a
    checkpoint would be needed again wherever the checkpoint goes.

    Raises:
        ValueError: the stock class has other parameters.
    """
    traces = {"quantization_config", "auto_map", "_name_or_path", "_model_name_or_path"}
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in traces}
    twin: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    place = f"teacher.model: {type(loaded).__name__} has other parameters than the stock {type(twin).__name__}"
    with naming(place, RuntimeError):
        twin.load_state_dict(loaded.state_dict())
    twin.tie_weights()
    twin.generation_config = loaded.generation_config
    return twin


def check_tokenizer(folder: Path) -> None:
    """Check that a folder's tokenizer gives the words of a text back: one read under the wrong class does not.

    A sentencepiece model without a tokenizer.json must also make the tokens that sentencepiece makes. A vocabulary that
    lacks plain English is tried on text of its own tokens.

    Raises:
        ValueError: it gives other words back, or makes other tokens.
    """
    tokenizer = load_tokenizer(folder)
    ids = _encode(tokenizer, TEXT)
    text = _own_text(tokenizer) if _is_unknown(ids) else TEXT
    back = _decode(tokenizer, _encode(tokenizer, text))
    if _words(back) != _words(text):
        _refuse(folder, tokenizer, f"turns {text[:60]!r} into {back[:60]!r}")
    model = folder / "tokenizer.model"
    if model.is_file() and not (folder / "tokenizer.json").is_file():
        # The file may also be one of tiktoken, which transformers reads.
        with suppress(RuntimeError):
            expected = SentencePieceProcessor(model_file=str(model)).encode(TEXT)
            if ids != expected:
                _refuse(folder, tokenizer, f"makes other tokens than sentencepiece makes with {model.name}")


def _refuse(folder: Path, tokenizer: PreTrainedTokenizerBase, fault: str) -> None:
    raise ValueError(
        f"teacher.model: the tokenizer of {folder}, read as {type(tokenizer).__name__}, {fault}; "
        "correct `tokenizer_class` in tokenizer_config.json, or put a tokenizer.json there"
    )


def _is_unknown(ids: Sequence[int]) -> bool:
    """Whether most of a text is one token, as where the vocabulary lacks its words."""
    return not ids or 2 * max(Counter(ids).values()) > len(ids)


def _own_text(tokenizer: PreTrainedTokenizerBase) -> str:
    own = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    return _decode(tokenizer, own[:: max(1, len(own) // _NUM_OWN_TOKENS)])


def _without_code(folder: Path, original: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer of a stock class that does what one with code does.

    Raises:
        ValueError: the tokenizer works in Python alone, or adds something to its fast core.
    """
    if type(original).__module__.startswith("transformers."):
        return original
    if not original.is_fast:
        raise ValueError(
            f"teacher.model: the tokenizer in {folder} works by code of its own ({type(original).__name__}) and has no "
            "fast core; put a tokenizer.json there that does the same"
        )
    stock = stock_tokenizer(original.backend_tokenizer, original)
    if any(stock(text).input_ids != original(text).input_ids for text in _TEXTS):
        raise ValueError(
            f"teacher.model: the code of the tokenizer in {folder} ({type(original).__name__}) makes other tokens than "
            "its fast core; put a tokenizer.json there that does the same"
        )
    return stock


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return cast("list[int]", tokenizer(text, add_special_tokens=False).input_ids)


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _words(text: str) -> list[str]:
    """Return the words of a text; spaces around punctuation and case are the tokenizer's business."""
    # U+2581 marks a space in pieces of sentencepiece, and is none in a text.
    return re.findall(r"[\w\u2581]+", unicodedata.normalize("NFKC", text).casefold())
