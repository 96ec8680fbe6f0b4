"""What a config says about whether its model can be cut, checked before anything is read or run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from budwood.arch.config import HFConfig, supported_family
from budwood.arch.spec import check_depth
from budwood.models.weights import read_object
from budwood.records.strict import naming

CONFIG, GENERATION = "config.json", "generation_config.json"
DROPPED_HEAD = "dropped/head.safetensors"
"""Output weights of the ids that a teacher had before its vocabulary was cut; no other program reads them."""
ADAPTER = "adapter_config.json"
CONFIG_FAULTS = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, StrictDataclassError)
"""What transformers raises of a config with values that are not allowed."""


def check_whole(folder: Path) -> None:
    """Check that a folder has a whole model.

    Raises:
        ValueError: it has no config, or is an adapter.
    """
    # Where both exist, transformers would load the adapter's base model from wherever that is.
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} is an adapter ({ADAPTER}), not a whole model; merge it first: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(target)"
        )
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder.absolute()} is no checkpoint folder, it has no config.json")


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's `config.json` as it is on disk.

    Raises:
        ValueError: the file is missing or damaged, or the folder is an adapter.
    """
    check_whole(folder)
    return read_object(folder / CONFIG)


def check_kind(folder: Path, written: HFConfig) -> None:
    """Check a `config.json` as it is on disk, before transformers reads it.

    Raises:
        ValueError: its model is of an unsupported kind or an impossible depth.
    """
    file = folder / CONFIG
    if not isinstance(written.get("model_type"), str):
        raise ValueError(f"{file} must name a `model_type`")  # noqa: TRY004 - the file is wrong
    with naming(file):
        supported_family(written)
        check_depth(written.get("num_hidden_layers", 1))


def check_lengths(place: Path | str, config: HFConfig, lengths: Mapping[str, int]) -> None:
    """Check that a model has positions for all of the longest sequences.

    Args:
        place: of the model, as an error names it.
        config: of the model.
        lengths: of sequences, by the settings that say them.

    Raises:
        ValueError: a sequence is longer than the model's positions.
    """
    limit = config["max_position_embeddings"]
    for name, length in lengths.items():
        if length > limit:
            raise ValueError(
                f"{name}={length} exceeds the {limit} positions of {place}: "
                f"shorten the sequences, or take another model"
            )
