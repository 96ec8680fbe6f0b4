"""Bring a pretrained teacher into a clean checkpoint folder, whatever form it comes in."""

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from budwood.arch.config import HFConfig, architecture_from_config
from budwood.arch.spec import Architecture
from budwood.corpus.tokenization import num_ids
from budwood.models.checkpoint import (
    OWN_CONFIGS,
    Checkpoint,
    build_meta,
    is_whole,
    load_config,
    load_generation,
    load_tokenizer,
    save_checkpoint,
)
from budwood.models.conversion import check_tokenizer, convert_code
from budwood.models.fingerprint import digest_of, fingerprint, homes_of_weights
from budwood.models.gguf import convert_gguf, describe_gguf, gguf_tokenizer
from budwood.models.kind import CONFIG, CONFIG_FAULTS, check_lengths, read_config
from budwood.models.parts import join_parts
from budwood.models.settings import TeacherSettings
from budwood.models.weights import check_shapes, read_object
from budwood.models.wrapper import is_wrapper, text_config, unwrap
from budwood.records.files import check_links
from budwood.records.hashes import MEMORY, hash_files
from budwood.records.paths import PACKAGE_SCHEME, resolve_path
from budwood.records.strict import naming

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py", "LICENSE*", "README.md")
_TOKENIZER_FILES = ("*.json", "*.model", "*.txt")
_HUB_ID_PARTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedTeacher:
    """A checkpoint that plain transformers opens, and what is known of it."""

    checkpoint: Checkpoint
    name: str
    revision: str
    """Commit hash of a hub model; `local` elsewhere."""


def fetch_teacher(settings: TeacherSettings, work_dir: Path, root: Path = Path()) -> FetchedTeacher:
    """Return a checkpoint for a teacher, writing into `work_dir` what has to be converted.

    Raises:
        ValueError: the source does not exist, is of an unsupported kind, has pickled weights only, wants to run code
            of its own without `trust_remote_code`, or its tokenizer does not give text back.
    """
    if settings.random is not None:
        folder = _write_random(settings.random, settings.seed, work_dir / "random")
        return _fetched(folder, f"random {read_config(folder)['model_type']}")
    path = _local_path(settings, root)
    if path is None:
        model = str(settings.model)
        snapshot = _download(model, settings.revision, HUB_FILES)
        return _fetched(_accept(snapshot, settings, work_dir), model, snapshot.name)
    if path.is_file():
        return _fetched(convert_gguf(path, work_dir / f"converted-{_file_fingerprint(path, work_dir)}"), path.stem)
    return _fetched(_accept(path, settings, work_dir), path.name)


def describe_teacher(
    settings: TeacherSettings, root: Path = Path(), lengths: Mapping[str, int] = MappingProxyType({})
) -> Architecture:
    """Return a teacher's architecture as stated, or from its configuration: no weights are read or downloaded.

    Raises:
        ValueError: the source does not exist, is of an unsupported kind, wants to run code that was not allowed, or
            does not see all of the longest sequences (`budwood.models.kind.check_lengths`).
    """
    if settings.architecture is not None:
        whole = settings.architecture.architecture()
    else:
        whole = architecture_from_config(_describe(settings, root, lengths))
    if settings.vocabulary is None:
        return whole
    if settings.vocabulary >= whole.vocab_size:
        raise ValueError(f"teacher.vocabulary={settings.vocabulary} must be less than {whole.vocab_size}, the whole")
    return replace(whole, vocab_size=settings.vocabulary)


def count_positions(settings: TeacherSettings, root: Path = Path()) -> int | None:
    """Return the largest number of positions of a teacher from its configuration; None where it is not at hand.

    Raises:
        ValueError: as `describe_teacher`.
    """
    if settings.architecture is not None:
        return None
    return int(_describe(settings, root, {})["max_position_embeddings"])


def _describe(settings: TeacherSettings, root: Path, lengths: Mapping[str, int]) -> HFConfig:
    """Return the checked configuration of a teacher."""
    if settings.random is not None:
        config: HFConfig = _random_config(settings.random, byte_tokenizer()).to_dict()
        check_lengths("teacher.random", config, lengths)
        return config
    path = _local_path(settings, root)
    if path is not None and path.is_file():
        config = describe_gguf(path)
        check_lengths(path, config, lengths)
        return config
    folder = path or _download(str(settings.model), settings.revision, (CONFIG,))
    _check_code(folder, trust_remote_code=settings.trust_remote_code)
    config = text_config(folder).to_dict() if is_wrapper(folder) else load_config(folder)
    check_lengths(folder, config, lengths)
    build_meta(folder, config)
    return config


def count_token_ids(settings: TeacherSettings, root: Path = Path()) -> int | None:
    """Return one more than the largest id of a teacher's tokenizer; None where none is at hand, or it takes code.

    Raises:
        ValueError: the source does not exist, or its tokenizer is damaged. Of the hub, its small files are fetched.
    """
    if settings.vocabulary is not None:
        return settings.vocabulary
    if settings.random is not None:
        return num_ids(byte_tokenizer())
    path = _local_path(settings, root)
    if path is None:
        if settings.architecture is not None:  # stated where there is no network
            return None
        path = _download(str(settings.model), settings.revision, _TOKENIZER_FILES)
    if path.is_file():
        return num_ids(gguf_tokenizer(path))
    return None if _code_of(path) or not _has_tokenizer(path) else num_ids(load_tokenizer(path))


def check_folder(folder: Path, *, trust_remote_code: bool) -> Architecture:
    """Check by configurations and headers alone that a checkpoint folder can serve as a teacher.

    Raises:
        ValueError: it is no checkpoint or an unsupported one, wants to run code that was not allowed or lies elsewhere,
            has no safetensors weights or others than its config says, has damaged generation settings or no tokenizer,
            or links to files elsewhere.
    """
    _check_code(folder, trust_remote_code=trust_remote_code)
    config = load_config(folder)
    architecture = architecture_from_config(config)
    model = build_meta(folder, config)
    _check_files(folder)
    if not _code_of(folder):
        check_shapes(folder, config, model)
    load_generation(folder)
    return architecture


def _check_files(folder: Path) -> None:
    check_links(folder, homes_of_weights(folder))
    if not _has_tokenizer(folder):
        raise ValueError(f"teacher.model: {folder} has no tokenizer; put there one of {', '.join(TOKENIZERS)}")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def _check_code(folder: Path, *, trust_remote_code: bool) -> None:
    """Check that a folder wants to run no code that was not allowed or lies elsewhere.

    Raises:
        ValueError: it does.
    """
    code = _code_of(folder)
    if elsewhere := sorted(name for name in code if "--" in name):
        raise ValueError(
            f"teacher.model: {folder} wants code of another repository ({', '.join(elsewhere)}): put the "
            "files beside the weights and name them in `auto_map`"
        )
    if code and not trust_remote_code:
        raise ValueError(
            f"teacher.model: {folder} brings code of its own ({', '.join(sorted(code))}); "
            "read it, then set teacher.trust_remote_code: true to run it"
        )


def _fetched(folder: Path, name: str, revision: str = "local") -> FetchedTeacher:
    check_tokenizer(folder)
    return FetchedTeacher(checkpoint=Checkpoint.open(folder), name=name, revision=revision)


def _accept(folder: Path, settings: TeacherSettings, work_dir: Path) -> Path:
    """Check a folder; where it may run code of its own, run it once and keep the weights in the stock class.

    Of a model that contains others beside its text model, the text model is taken out.
    """
    if is_wrapper(folder):
        _check_files(folder)
        target, convert = work_dir / f"text-{fingerprint(folder)}", unwrap
    else:
        check_folder(folder, trust_remote_code=settings.trust_remote_code)
        if not _code_of(folder):
            return folder
        target, convert = work_dir / f"converted-{fingerprint(folder)}", convert_code
    return target if is_whole(target) else convert(folder, target)


def _code_of(folder: Path) -> set[str]:
    """Return the code that a model or its tokenizer needs; classes of our own are at hand, whatever lies there."""
    if str(read_config(folder).get("model_type")) in OWN_CONFIGS:
        return set()
    found = set()
    for name in (CONFIG, "tokenizer_config.json"):
        if (folder / name).is_file():
            for value in read_object(folder / name).get("auto_map", {}).values():
                found |= {part for part in (value if isinstance(value, list) else [value]) if part}
    return found


def _local_path(settings: TeacherSettings, root: Path) -> Path | None:
    """Return the folder or the GGUF file that settings name; None where they name a model of the hub.

    Raises:
        ValueError: it can be neither, does not exist, or its parts do not make it up.
    """
    if settings.parts:
        return join_parts(settings.parts, str(settings.sha256), root)
    model = str(settings.model)
    path = Path(resolve_path(model, root))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"teacher.model: no file at {path}")
        return path
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~", PACKAGE_SCHEME)) or len(model.split("/")) > _HUB_ID_PARTS:
        raise ValueError(f"teacher.model: no checkpoint folder at {path}")
    return None


def _file_fingerprint(file: Path, work_dir: Path) -> str:
    """Return a hash of a file and of the parts that belong to it."""
    parts = sorted(file.parent.glob(re.sub(r"-\d{5}-of-", "-?????-of-", glob.escape(file.name))))
    hashes = hash_files({part.name: part for part in parts}, work_dir / MEMORY)
    return digest_of(hashes)


def _download(model: str, revision: str | None, files: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"teacher.model: {model!r} is no local folder, and the hub did not give it ({type(error).__name__}); "
            "check the name, the network, and for gated models the access token (HF_TOKEN)"
        ) from error


def _random_config(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    defaults: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    with naming("teacher.random", *CONFIG_FAULTS):
        config = AutoConfig.for_model(**defaults | dict(settings))
        _refuse_unknown(settings, config)
        architecture_from_config(config.to_dict())
    return config


def _refuse_unknown(settings: Mapping[str, Any], config: PretrainedConfig) -> None:
    """Check that a config class reads all of its settings: it keeps others as they are, and ignores them."""
    ignored = vars(config).keys() - vars(type(config)()).keys()
    for name in settings.keys() & ignored:
        raise ValueError(f"{name} is not a field of {type(config).__name__} in transformers")


def _write_random(settings: Mapping[str, Any], seed: int, target: Path) -> Path:
    tokenizer = byte_tokenizer()
    config = _random_config(settings, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return save_checkpoint(model, tokenizer, target)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for every byte and one for the end of a document."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")  # noqa: S106
