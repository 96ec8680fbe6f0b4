"""Models of any architecture: configured, built empty, drawn at random, loaded and saved."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from budwood.arch.family import architecture_from_config, family_of, layer_config, stock_config
from budwood.arch.spec import Architecture
from budwood.subnet.modeling import LayerwiseLlamaConfig, LayerwiseLlamaForCausalLM

LAYERWISE_CLASSES: Mapping[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LayerwiseLlamaConfig, LayerwiseLlamaForCausalLM),
    "mistral": (LayerwiseLlamaConfig, LayerwiseLlamaForCausalLM),
}
"""Config and model class that hold layer-wise sizes, by family."""

# Makes `save_pretrained` put the classes' source beside the weights.
LayerwiseLlamaConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
LayerwiseLlamaForCausalLM.register_for_auto_class("AutoModelForCausalLM")  # type: ignore[no-untyped-call]

_NOT_INHERITED = frozenset(
    {"architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "per_layer_config"}
)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's `config.json`."""
    return dict(json.loads((folder / "config.json").read_text()))


def read_architecture(folder: Path) -> Architecture:
    """Return a checkpoint's architecture, layers in depth order."""
    return architecture_from_config(read_config(folder))


def model_config(
    base: Mapping[str, Any], architecture: Architecture, ropes: Sequence[Mapping[str, Any]]
) -> PretrainedConfig:
    """Return the Hugging Face configuration of an architecture, of a stock class where one can express it.

    Args:
        base: a teacher's config; everything that is not a size comes from it.
        architecture: layers in depth order.
        ropes: `rope_parameters` of every layer.
    """
    layers = [
        layer_config(spec) | {"rope_parameters": dict(rope)}
        for spec, rope in zip(architecture.layers, ropes, strict=True)
    ]
    settings = {key: value for key, value in base.items() if key not in _NOT_INHERITED} | {
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        **layers[0],
    }
    if architecture.is_uniform:
        heads = architecture.layers[0].num_attention_heads
        family = family_of(architecture.family)
        stock = stock_config(family, hidden_size=architecture.hidden_size, num_attention_heads=heads)
        return AutoConfig.for_model(**settings | stock)
    # One head for the whole: LlamaConfig refuses a number of heads that does not divide the hidden size.
    settings |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    settings |= {"per_layer_config": dict(enumerate(layers)), "allow_global_per_layer_attribute_access": True}
    config_class, _ = LAYERWISE_CLASSES[architecture.family]
    return config_class(**settings)


def build_empty(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model without weights (on the meta device) but with its rotary embeddings."""
    with torch.device("meta"):
        model = _model_class(config)(config)
    for module in model.modules():
        if hasattr(module, "compute_default_rope_parameters"):
            fresh = type(module)(module.config)
            for name, buffer in fresh.named_buffers():
                setattr(module, name, nn.Buffer(buffer, persistent=False))
    return model


def random_model(base: Mapping[str, Any], architecture: Architecture, seed: int) -> PreTrainedModel:
    """Return a float32 model with its family's own initialisation and standard rotary embeddings.

    The frequencies that a child keeps of its teacher suit the teacher's weights, not random ones.
    """
    config = model_config(base, architecture, [base["rope_parameters"]] * architecture.num_hidden_layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("PreTrainedModel", _model_class(config)(config).float())


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint folder of a stock class, or one that budwood wrote with a class of its own."""
    model_type = read_config(folder)["model_type"]
    own = {config.model_type: model for config, model in LAYERWISE_CLASSES.values()}
    loaded: PreTrainedModel = own.get(model_type, AutoModelForCausalLM).from_pretrained(folder, dtype=dtype)
    return loaded


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    An explicit no to remote code: unasked, transformers puts the question to the terminal for folders that bring code.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return tokenizer


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> Path:
    """Write a model and its tokenizer as a folder, atomically, and return the folder."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    own = dict(LAYERWISE_CLASSES.values())
    found = own.get(type(config)) or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return cast("type[PreTrainedModel]", found)
