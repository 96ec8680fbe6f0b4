"""Bring a pretrained teacher into a clean checkpoint folder, whatever form it comes in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from budwood.arch.family import architecture_from_config
from budwood.arch.spec import Architecture
from budwood.corpus.documents import resolve_package_path
from budwood.models import checkpoint
from budwood.models.checkpoint import OWN_CONFIGS, read_architecture, read_config, save_checkpoint
from budwood.models.weights import weight_files

PACKAGE_SCHEME = "package://"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py", "LICENSE*", "README.md")
_HUB_ID_PARTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSource:
    """Where a teacher comes from; exactly one of `model` and `random` is given."""

    model: str | None = None
    """A hub id, a checkpoint folder, a GGUF file, or `package://<import name>/<file>` inside an installed package."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    random: Mapping[str, Any] | None = None
    """Configuration of a model with random weights and a byte tokenizer, for trials without any download; a Llama where
    `model_type` names no other family."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint, once, to bring its weights into the stock class."""
    license: str = "unknown"
    attribution: str = ""
    seed: int = 42
    """Seed of a random teacher."""

    def __post_init__(self) -> None:
        """Check that there is one source.

        Raises:
            ValueError: neither or both of `model` and `random` are given.
        """
        if (self.model is None) == (self.random is None):
            raise ValueError("teacher: give exactly one of `model` and `random`")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedTeacher:
    """A checkpoint folder that plain transformers opens, and what is known of it."""

    folder: Path
    name: str
    revision: str
    """Commit hash of a hub model; `local` elsewhere."""


def fetch_teacher(source: TeacherSource, work_dir: Path) -> FetchedTeacher:
    """Return a checkpoint folder for a teacher, writing into `work_dir` what has to be converted.

    Raises:
        ValueError: the source does not exist, is of an unsupported family, holds pickled weights only, or wants to run
            code of its own without `trust_remote_code`.
    """
    if source.random is not None:
        folder = _write_random(source.random, source.seed, work_dir / "random")
        return FetchedTeacher(folder=folder, name=f"random {read_config(folder)['model_type']}", revision="local")
    path = _local_path(source)
    if path is None:
        model = str(source.model)
        snapshot = _download(model, source.revision, HUB_FILES)
        return FetchedTeacher(folder=_accept(snapshot, source, work_dir), name=model, revision=snapshot.name)
    if path.is_file():
        return FetchedTeacher(folder=_convert_gguf(path, work_dir / "converted"), name=path.stem, revision="local")
    return FetchedTeacher(folder=_accept(path, source, work_dir), name=path.name, revision="local")


def describe_teacher(source: TeacherSource) -> Architecture:
    """Return a teacher's architecture from its configuration alone: no weights are read or downloaded.

    Raises:
        ValueError: the source does not exist, or is of an unsupported family.
    """
    if source.random is not None:
        return architecture_from_config(_random_config(source.random, byte_tokenizer()).to_dict())
    path = _local_path(source)
    if path is not None and path.is_file():
        return architecture_from_config(AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict())
    folder = path if path is not None else _download(str(source.model), source.revision, ("config.json",))
    if not (folder / "config.json").is_file():
        raise ValueError(f"teacher.model: {folder} is no checkpoint folder, it holds no config.json")
    return read_architecture(folder)


def check_folder(folder: Path, *, trust_remote_code: bool) -> Architecture:
    """Check that a checkpoint folder can serve as a teacher and return its architecture.

    Raises:
        ValueError: no config, an unsupported family, remote code that was not allowed, no safetensors weights, or no
            tokenizer.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"teacher.model: {folder} is no checkpoint folder, it holds no config.json")
    config = read_config(folder)
    if _brings_code(config) and not trust_remote_code:
        raise ValueError(
            f"teacher.model: {folder} brings code of its own ({', '.join(sorted(config['auto_map'].values()))}); "
            "read it, then set teacher.trust_remote_code: true to run it"
        )
    architecture = read_architecture(folder)
    weight_files(folder, config)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"teacher.model: {folder} holds no tokenizer; put there one of {', '.join(TOKENIZERS)}")
    return architecture


def fingerprint(folder: Path) -> str:
    """Return `budwood.models.checkpoint.fingerprint`; for callers that do not pass a `Checkpoint` yet."""
    return checkpoint.fingerprint(folder)


def _accept(folder: Path, source: TeacherSource, work_dir: Path) -> Path:
    """Check a folder; where it may run code of its own, run it once and keep the weights in the stock class."""
    check_folder(folder, trust_remote_code=source.trust_remote_code)
    if not _brings_code(read_config(folder)):
        return folder
    target = work_dir / "converted"
    if not (target / "config.json").is_file():
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
        save_checkpoint(_stock_twin(loaded), AutoTokenizer.from_pretrained(folder, trust_remote_code=True), target)
    return target


def _brings_code(config: Mapping[str, Any]) -> bool:
    """Whether a model needs code that is not at hand; classes of our own are, whatever lies beside the weights."""
    return "auto_map" in config and config.get("model_type") not in OWN_CONFIGS


def _local_path(source: TeacherSource) -> Path | None:
    """Return the folder or the GGUF file that a source names; None where it names a model of the hub.

    Raises:
        ValueError: it can be neither, or does not exist.
    """
    model = str(source.model)
    path = Path(resolve_package_path(model) if model.startswith(PACKAGE_SCHEME) else model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"teacher.model: no file at {path}")
        return path
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")) or len(model.split("/")) > _HUB_ID_PARTS:
        raise ValueError(f"teacher.model: no checkpoint folder at {path.resolve()}")
    return None


def _download(model: str, revision: str | None, files: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"teacher.model: {model!r} is no local folder, and the hub did not give it ({type(error).__name__}); "
            "check the name, the network, and for gated models the access token (HF_TOKEN)"
        ) from error


def _convert_gguf(file: Path, target: Path) -> Path:
    if (target / "config.json").is_file():
        return target
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return save_checkpoint(_stock_twin(loaded), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name), target)


def _stock_twin(loaded: PreTrainedModel) -> PreTrainedModel:
    """Return a model of the stock class with the same weights.

    Transformers refuses to save a model that carries the trace of its quantisation, and a class that came with a
    checkpoint would be needed again wherever the checkpoint goes.
    """
    traces = {"quantization_config", "auto_map", "_name_or_path", "_model_name_or_path"}
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in traces}
    twin: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    twin.load_state_dict(loaded.state_dict())
    twin.tie_weights()
    twin.generation_config = loaded.generation_config
    return twin


def _random_config(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    defaults: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    return AutoConfig.for_model(**defaults | dict(settings))


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
