"""The text model of a checkpoint that holds other models beside it, such as an encoder of images."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

from budwood.arch.family import WRAPPERS
from budwood.models.checkpoint import CONFIG, load_tokenizer, read_config, save_checkpoint
from budwood.models.rotary import check_rope

_NAMES = {r"^language_model\.lm_head": "lm_head", r"^(language_model\.model|model\.language_model)\.": "model."}
"""How wrappers name the tensors of their text model, as they are published and as transformers writes them."""


def is_wrapper(folder: Path) -> bool:
    """Whether a folder holds a text model beside others."""
    return read_config(folder).get("model_type") in WRAPPERS


def text_config(folder: Path) -> PretrainedConfig:
    """Return the configuration of a wrapper's text model, with all defaults.

    Raises:
        ValueError: it cannot be read, or is of another family.
    """
    wrapper = read_config(folder)["model_type"]
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder).text_config
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise ValueError(f"{folder / CONFIG} is not a config that transformers reads: {error}") from error
    if config.model_type not in WRAPPERS[wrapper]:
        raise ValueError(
            f"{folder / CONFIG}: {wrapper} with text_config.model_type={config.model_type!r} is not supported; "
            f"supported: {', '.join(WRAPPERS[wrapper])}"
        )
    try:
        check_rope(config.to_dict())
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    return config


def unwrap(folder: Path, target: Path) -> Path:
    """Write a wrapper's text model and tokenizer as a checkpoint of its own, unless it is there already.

    Raises:
        ValueError: the config cannot be read, or the weights do not fit it.
    """
    if (target / CONFIG).is_file():
        return target
    config = text_config(folder)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    try:
        model, found = model_class.from_pretrained(
            folder, config=config, key_mapping=_NAMES, use_safetensors=True, dtype="auto", output_loading_info=True
        )
    except RuntimeError as error:
        raise ValueError(f"{folder}: its weights do not fit its config: {error}") from error
    if found["missing_keys"]:
        raise ValueError(f"{folder} holds no tensor {min(found['missing_keys'])!r}, which its text model needs")
    return save_checkpoint(model, load_tokenizer(folder), target)
