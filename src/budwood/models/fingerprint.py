"""The files of a checkpoint, and the hash of all that decides what it computes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from budwood.models.kind import CONFIG, DROPPED_HEAD, GENERATION, read_config
from budwood.models.parts import cache_folder
from budwood.models.weights import read_object, weight_files
from budwood.records.hashes import hash_files
from budwood.records.serving import CHECK

_SIDE_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    GENERATION,
    "chat_template.jinja",
    "chat_template.json",
    DROPPED_HEAD,
)


def fingerprint(folder: Path, *, remembered: bool = True) -> str:
    """Return a hash of all that decides what a checkpoint computes and how text reaches it.

    Hashes of files are remembered in the user's cache (see `hash_files`), so that a second call reads no weights.

    Raises:
        ValueError: there are no weights that transformers would read, or a file is missing.
    """
    return digest_of(hash_files(checkpoint_files(folder), memory_of(folder), remembered=remembered))


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """Return the files that make a checkpoint, by their names within it.

    These are the config, the weights that transformers reads, generation settings, the tokenizer with its chat
    template, the head of ids that were dropped, and code where a config refers to some.

    Raises:
        ValueError: there are no weights, or a file is missing.
    """
    config = read_config(folder)
    names = [folder / name for name in (CONFIG, *_SIDE_FILES)]
    templates = (folder / "additional_chat_templates").glob("*.jinja")
    uses_code = any("auto_map" in read_object(file) for file in names[:2] if file.is_file())
    code = (file for file in folder.rglob("*.py") if file.name != CHECK) if uses_code else ()
    found = [*(file for file in names if file.is_file()), *templates, *code]
    weights = weight_files(folder, config)
    if missing := [str(file) for file in weights if not file.is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which its index names: fetch it again")
    return {file.relative_to(folder).as_posix(): file for file in sorted({*found, *weights})}


def homes_of_weights(folder: Path) -> tuple[Path, ...]:
    """Return the folders in which a checkpoint's weights lie: its own, or a store into which it links.

    Raises:
        ValueError: there are no weights.
    """
    return tuple({file.resolve().parent for file in weight_files(folder, read_config(folder))})


def digest_of(hashes: Mapping[str, str]) -> str:
    """Return one hash of the hashes of files."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def memory_of(folder: Path) -> Path:
    """Return where hashes are remembered: in the user's cache; the folder may be shared, read-only or uploaded."""
    return cache_folder() / "fingerprints" / f"{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]}.json"
