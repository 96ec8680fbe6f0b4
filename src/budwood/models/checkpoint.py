"""Models of any architecture: configured, built empty, drawn at random, loaded and saved."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from budwood.arch.family import architecture_from_config, family_of, layer_config, stock_family
from budwood.arch.spec import Architecture
from budwood.models.modeling import LAYERWISE_CLASSES
from budwood.models.rotary import even_share, rope_for_dims

OWN_CONFIGS = {config.model_type: config for config, _ in LAYERWISE_CLASSES.values()}
OWN_MODELS = {config.model_type: model for config, model in LAYERWISE_CLASSES.values()}

# Makes `save_pretrained` put the classes' source beside the weights.
for _config, _model in LAYERWISE_CLASSES.values():
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForCausalLM")

_NOT_INHERITED = frozenset(
    {"architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "per_layer_config"}
)


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's `config.json` as it stands."""
    return dict(json.loads((folder / "config.json").read_text()))


def load_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config with all defaults and in the words of this version of transformers."""
    config_class = OWN_CONFIGS.get(read_config(folder)["model_type"], AutoConfig)
    return dict(config_class.from_pretrained(folder).to_dict())


def read_architecture(folder: Path) -> Architecture:
    """Return a checkpoint's architecture, layers in depth order."""
    return architecture_from_config(read_config(folder))


def model_config(
    base: Mapping[str, Any], architecture: Architecture, ropes: Sequence[Mapping[str, Any]]
) -> PretrainedConfig:
    """Return the Hugging Face configuration of an architecture, of a stock class where one can express it.

    Args:
        base: a teacher's config; everything that is not a size comes from it. Its lists by layer fit the architecture.
        architecture: layers in depth order.
        ropes: `rope_parameters` of every layer.
    """
    family, first = family_of(architecture.family), architecture.layers[0]
    layers = [
        layer_config(family, spec) | {"rope_parameters": dict(rope)}
        for spec, rope in zip(architecture.layers, ropes, strict=True)
    ]
    settings = {key: value for key, value in base.items() if key not in _NOT_INHERITED} | {
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        **layers[0],
    }
    stock = stock_family(family, hidden_size=architecture.hidden_size, layer=first)
    if stock and all(layer == layers[0] for layer in layers):
        return AutoConfig.for_model(**settings | {"model_type": stock.model_type, **stock.required})
    # One head for the whole: some config classes refuse a number of heads that does not divide the hidden size.
    settings |= {name: 1 for name in ("num_attention_heads", "num_key_value_heads") if name in settings}
    settings |= {"per_layer_config": dict(enumerate(layers)), "allow_global_per_layer_attribute_access": True}
    config_class, _ = LAYERWISE_CLASSES[architecture.family]
    return config_class(**settings)


def build_empty(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model whose weights are memory that nobody has written to, with the constants of its configuration."""
    with no_init_weights():
        model = _model_class(config)(config)
    # Ties are part of the initialisation that was left out.
    model.tie_weights()
    return model


def random_model(base: Mapping[str, Any], architecture: Architecture, seed: int) -> PreTrainedModel:
    """Return a float32 model with its family's own initialisation, and `rope_parameters` as the base has them.

    Args:
        base: a config whose lists by layer fit the architecture. Random weights suit the `rope_parameters` that
            `budwood.models.rotary.standard_rope` returns.
        architecture: layers in depth order.
        seed: of the initialisation.
    """
    rope = base["rope_parameters"]
    share = rope.get("partial_rotary_factor", 1.0)
    ropes = [rope_for_dims(rope, even_share(spec.head_dim, share), spec.head_dim) for spec in architecture.layers]
    config = model_config(base, architecture, ropes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("PreTrainedModel", _model_class(config)(config).float())


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint folder of a stock class, or one that budwood wrote with a class of its own."""
    model_class = OWN_MODELS.get(read_config(folder)["model_type"], AutoModelForCausalLM)
    loaded: PreTrainedModel = model_class.from_pretrained(folder, dtype=dtype)
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
