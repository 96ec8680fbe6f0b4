"""The text model of a checkpoint that contains other models beside it, such as an encoder of images."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from budwood.arch.config import WRAPPERS
from budwood.arch.kinds import refuse_other_kinds
from budwood.arch.spec import check_depth
from budwood.models.checkpoint import build_empty, load_tokenizer, save_sealed
from budwood.models.kind import CONFIG, CONFIG_FAULTS, read_config
from budwood.models.rotary import check_rope
from budwood.models.weights import read_tensor, tensor_files
from budwood.records.strict import naming

_OWN_NAMES = (("language_model.", ""), ("model.language_model.", "model."), ("lm_head.", "lm_head."))
"""What the names of a text model's tensors begin with in files, as published or as transformers writes them, and in the
text model's class."""


def is_wrapper(folder: Path) -> bool:
    """Whether a folder contains a text model beside others."""
    return str(read_config(folder).get("model_type")) in WRAPPERS


def text_config(folder: Path) -> PretrainedConfig:
    """Return the configuration of a wrapper's text model, with all defaults.

    Raises:
        ValueError: it cannot be read, is of another family, or is quantised.
    """
    written = read_config(folder)
    wrapper = written["model_type"]
    refuse_other_kinds(written, f"supported are {', '.join(WRAPPERS[wrapper])} in {wrapper}")
    with naming(f"{folder / CONFIG} is not a config that transformers reads", *CONFIG_FAULTS):
        # transformers lists something for every layer.
        check_depth((written.get("text_config") or {}).get("num_hidden_layers", 1))
        whole = AutoConfig.from_pretrained(folder)
        config: PretrainedConfig = whole.text_config
        # The class of the whole ties by its own flag.
        config.tie_word_embeddings = whole.tie_word_embeddings
    if config.model_type not in WRAPPERS[wrapper]:
        raise ValueError(
            f"{folder / CONFIG}: {wrapper} with text_config.model_type={config.model_type!r} is not supported; "
            f"supported: {', '.join(WRAPPERS[wrapper])}"
        )
    with naming(folder / CONFIG):
        check_rope(config.to_dict())
    return config


def unwrap(folder: Path, target: Path) -> Path:
    """Write a wrapper's text model and tokenizer as a checkpoint of its own.

    Raises:
        ValueError: the config cannot be read, or the weights do not fit it.
    """
    model = build_empty(text_config(folder))
    files = tensor_files(folder, read_config(folder))
    stored = {
        own + name.removeprefix(prefix): name for prefix, own in _OWN_NAMES for name in files if name.startswith(prefix)
    }
    for name, parameter in model.named_parameters():
        if name not in stored:
            raise ValueError(f"{folder} has no tensor {name!r}, which its text model needs")
        tensor = read_tensor(files[stored[name]], stored[name])
        if tensor.shape != parameter.shape:
            shapes = f"{list(tensor.shape)}, and its config asks for {list(parameter.shape)}"
            raise ValueError(f"{folder}: tensor {stored[name]!r} has the shape {shapes}")
        parameter.data = tensor
    return save_sealed(model, load_tokenizer(folder), target)
