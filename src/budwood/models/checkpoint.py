"""Models of any architecture: configured, built empty, drawn at random, loaded and saved."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from budwood.arch.config import HFConfig, architecture_from_config, layer_config, stock_family, supported_family
from budwood.arch.family import Family, family_of
from budwood.arch.spec import Architecture
from budwood.models.fingerprint import fingerprint
from budwood.models.kind import CONFIG, CONFIG_FAULTS, GENERATION, check_kind, check_lengths, read_config
from budwood.models.modeling import LAYERWISE_CLASSES
from budwood.models.rotary import (
    RopeParameters,
    check_rope,
    even_share,
    layer_types,
    rope_constants,
    rope_for_dims,
    rope_for_pairs,
    rope_of_type,
    rotary_dims,
    state_ropes,
    without_unread_share,
)
from budwood.models.tensors import CheckpointTensors
from budwood.models.weights import SINGLE, WEIGHT_INDEX, read_object, same_values, tensor_files
from budwood.records.files import write_folder_atomically
from budwood.records.seal import damage, seal
from budwood.records.strict import naming

logger = logging.getLogger(__name__)

OWN_CONFIGS = {config.model_type: config for config, _ in LAYERWISE_CLASSES.values()}
OWN_MODELS = {config.model_type: model for config, model in LAYERWISE_CLASSES.values()}

# Makes `save_pretrained` put the classes' source beside the weights.
for _config, _model in LAYERWISE_CLASSES.values():
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForCausalLM")


_NOT_INHERITED = frozenset(
    {
        "architectures", "auto_map", "model_type", "transformers_version", "_name_or_path", "per_layer_config",
        "partial_rotary_factor",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model on disk, read once: what stages hand to each other in place of a path."""

    folder: Path
    config: HFConfig = field(repr=False)
    """As transformers reads it, with all defaults."""
    architecture: Architecture
    """Layers in depth order."""
    fingerprint: str
    """See `fingerprint`."""

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a folder that `from_pretrained` opens.

        Raises:
            ValueError: it is no checkpoint, is of an unsupported kind, or a file is missing or damaged.
        """
        folder = Path(folder)
        config = load_config(folder)
        architecture = architecture_from_config(config)
        return cls(folder=folder, config=config, architecture=architecture, fingerprint=fingerprint(folder))

    @property
    def stored_dtype(self) -> torch.dtype:
        """The widest precision of its weights."""
        return CheckpointTensors(self.folder, self.architecture).dtype

    def load_model(self, dtype: torch.dtype) -> PreTrainedModel:
        """Load the model."""
        return load_model(self.folder, dtype)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer."""
        return load_tokenizer(self.folder)

    def check_lengths(self, lengths: Mapping[str, int]) -> None:
        """Check that the model sees all of the longest sequences of a study (see `budwood.models.kind.check_lengths`).

        Raises:
            ValueError: a sequence is longer than the model's positions.
        """
        check_lengths(self.folder, self.config, lengths)

    def check_unchanged(self) -> None:
        """Check that no file was replaced; those that were not touched are not read again.

        Raises:
            ValueError: a file was replaced.
        """
        found = fingerprint(self.folder)
        if found != self.fingerprint:
            raise ValueError(
                f"{self.folder} has changed since it was opened: its fingerprint was {self.fingerprint}, now it is "
                f"{found}; run again to work with what it is now"
            )


def load_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config with all defaults and in the words of this version of transformers.

    A config that ties the head to the embedding, beside weights in which the two differ, is returned untied: that is
    the model which transformers loads.

    Raises:
        ValueError: the file is missing or damaged, or its values are not allowed.
    """
    written = read_config(folder)
    check_kind(folder, written)
    config_class: Any = OWN_CONFIGS.get(written["model_type"], AutoConfig)
    with naming(f"{folder / CONFIG} is not a config that transformers reads", *CONFIG_FAULTS):
        config: dict[str, Any] = config_class.from_pretrained(folder).to_dict()
    with naming(folder / CONFIG):
        check_rope(config)
    config = without_unread_share(config)
    if config["tie_word_embeddings"] and _has_own_head(folder, config):
        config["tie_word_embeddings"] = False
    return config


def build_meta(folder: Path, config: HFConfig) -> PreTrainedModel:
    """Return the model that transformers builds from a checkpoint's config, on the meta device, without weights.

    Raises:
        ValueError: it does not.
    """
    try:
        with torch.device("meta"):
            return build_empty(config_object(config))
    except Exception as error:  # transformers and torch raise whatever they meet
        raise ValueError(
            f"{folder / CONFIG} is not a config that transformers builds a model from: {type(error).__name__}: {error}"
        ) from error


def load_generation(folder: Path) -> GenerationConfig | None:
    """Return a checkpoint's generation settings; None where it has none.

    Raises:
        ValueError: the file is damaged, or its values are not allowed.
    """
    file = folder / GENERATION
    if not file.is_file():
        return None
    read_object(file)
    with naming(f"{file} does not have generation settings that transformers reads", OSError, ValueError, TypeError):
        return GenerationConfig.from_pretrained(folder)


def config_object(config: HFConfig) -> PretrainedConfig:
    """Return what transformers builds a model from, for a config with all defaults."""
    own: Any = OWN_CONFIGS.get(config["model_type"])
    return cast("PretrainedConfig", own.from_dict(dict(config)) if own else AutoConfig.for_model(**config))


def read_architecture(folder: Path) -> Architecture:
    """Return a checkpoint's architecture, layers in depth order."""
    return architecture_from_config(load_config(folder))


def _has_own_head(folder: Path, config: HFConfig) -> bool:
    """Whether the weights have a head beside the embedding, with other values."""
    family = supported_family(config)
    embedding, head = family.embedding.weight, family.head.weight
    if not any((folder / name).is_file() for name in (SINGLE, WEIGHT_INDEX)):
        return False  # a config by itself
    files = tensor_files(folder, config)
    heads = [name for name in (head, family.stored_names.get(head)) if name in files]
    return bool(heads) and embedding in files and not same_values(folder, config, (embedding, str(heads[0])))


def model_config(base: HFConfig, architecture: Architecture, ropes: Sequence[RopeParameters]) -> PretrainedConfig:
    """Return the Hugging Face configuration of an architecture, of a stock class where one can express it.

    Args:
        base: a teacher's config; what the architecture does not state comes from it. Its lists by layer fit the
            architecture.
        architecture: layers in depth order.
        ropes: `rope_parameters` of every layer.
    """
    family, first = family_of(architecture.family), architecture.layers[0]
    ropes = [
        _stated_rope(family, base, rope, spec.head_dim) for spec, rope in zip(architecture.layers, ropes, strict=True)
    ]
    settings: dict[str, Any] = {key: value for key, value in base.items() if key not in _NOT_INHERITED} | {
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        **layer_config(family, first),
        **family.biases,
    }
    types = layer_types(family, settings)
    stock = stock_family(family, hidden_size=architecture.hidden_size, layer=first)
    stated = state_ropes(ropes, types)
    if stock and architecture.is_uniform and stated:
        stands_in = family.stand_in_settings if stock.model_type == family.stand_in else {}
        own = {"model_type": stock.model_type, **stock.required, **stands_in}
        return AutoConfig.for_model(**settings | own | {"rope_parameters": dict(stated)})
    layers = [
        # A layer's rotary embedding is its own, whatever its type.
        layer_config(family, spec) | {"rope_parameters": state_ropes([rope] * len(types), types)}
        for spec, rope in zip(architecture.layers, ropes, strict=True)
    ]
    settings |= layers[0]
    # One head for the whole: some config classes refuse a number of heads that does not divide the hidden size.
    settings |= {name: 1 for name in ("num_attention_heads", "num_key_value_heads") if name in settings}
    settings |= {"per_layer_config": dict(enumerate(layers)), "allow_global_per_layer_attribute_access": True}
    config_class, _ = LAYERWISE_CLASSES[family.model_type]
    return config_class(**settings)


def _stated_rope(family: Family, base: HFConfig, rope: RopeParameters, head_dim: int) -> dict[str, Any]:
    """Return `rope_parameters` as a family's config takes them: of a type that it has, with what its class reads."""
    if family.rope_types and rope.get("rope_type", "default") not in family.rope_types:
        pairs = range(rotary_dims(rope, head_dim) // 2)
        rope = rope_for_pairs(rope, pairs, head_dim, head_dim, base["max_position_embeddings"])
    return dict(rope) | (rope_constants(base) if "rope_parameters" in base else {})


def build_empty(config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None) -> PreTrainedModel:
    """Return a model whose weights are uninitialised memory, with the constants of its configuration.

    Args:
        config: of the model.
        model_class: of the model; without it the one that belongs to the config.
    """
    with no_init_weights():
        model = (model_class or _model_class(config))(config)
    # Ties are part of the initialisation that was left out.
    model.tie_weights()
    return model


def random_model(base: HFConfig, architecture: Architecture, seed: int) -> PreTrainedModel:
    """Return a float32 model with its family's own initialisation, and `rope_parameters` as the base has them.

    Args:
        base: a config of the family. Where its lists by layer do not fit, the family's own take their place. Random
            weights suit the `rope_parameters` that `budwood.models.rotary.standard_rope` returns.
        architecture: layers in depth order.
        seed: of the initialisation.
    """
    base, family = _with_own_lists(base, architecture), family_of(architecture.family)
    stated = [rope_of_type(base["rope_parameters"], layer_type) for layer_type in layer_types(family, base)]
    ropes = [
        rope_for_dims(rope, even_share(spec.head_dim, rope.get("partial_rotary_factor", 1.0)), spec.head_dim)
        for rope, spec in zip(stated, architecture.layers, strict=True)
    ]
    config = model_config(base, architecture, ropes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cast("PreTrainedModel", _model_class(config)(config).float())


def _with_own_lists(base: HFConfig, architecture: Architecture) -> dict[str, Any]:
    """Return a config of an architecture's depth; lists by layer that do not fit it are the family's own."""
    family, depth = family_of(architecture.family), architecture.num_hidden_layers
    settings = dict(base) | {"model_type": family.model_type, "num_hidden_layers": depth}
    wrong = [name for name in family.layer_lists if len(settings.get(name) or ()) != depth]
    if not wrong:
        return settings
    rest = {name: value for name, value in settings.items() if name not in {*wrong, "per_layer_config"}}
    own = AutoConfig.for_model(**rest)
    return settings | {name: getattr(own, name) for name in wrong}


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint folder of a stock class, or one that budwood wrote with a class of its own."""
    config = load_config(folder)
    model_class: Any = OWN_MODELS.get(config["model_type"], AutoModelForCausalLM)
    settings = {"dtype": dtype, "tie_word_embeddings": config["tie_word_embeddings"]}
    # Without `use_safetensors` transformers would read pickles where there is nothing else.
    loaded: PreTrainedModel = model_class.from_pretrained(folder, use_safetensors=True, **settings)
    return loaded


def own_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model contiguous weights in memory of its own, shared with no file and no other model; return it."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        # Of a class that it does not know, transformers reads the config as a nameless one, and warns.
        model_type = str(read_config(folder).get("model_type")) if (folder / CONFIG).is_file() else ""
        own: Any = OWN_CONFIGS.get(model_type)
        config = own.from_pretrained(folder) if own else None
        # An explicit no to code: unasked, transformers puts the question to the terminal for folders that bring code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=config, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises nothing narrower
        why = f"({type(error).__name__}: {error}){_damage_of_sentencepiece(folder)}"
        raise ValueError(f"{folder}: its tokenizer cannot be read {why}") from error
    return tokenizer


def _damage_of_sentencepiece(folder: Path) -> str:
    """What to add where transformers takes a damaged sentencepiece model for one of another library."""
    model = folder / "tokenizer.model"
    if not model.is_file() or (folder / "tokenizer.json").is_file():
        return ""
    try:
        SentencePieceProcessor(model_file=str(model))
    except RuntimeError:
        return (
            f"; {model.name} is no sentencepiece model: if it should be one, fetch it again "
            "(a file of a few lines is a pointer of Git LFS: `git lfs pull`)"
        )
    return ""


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write a model and its tokenizer as a folder, atomically, and return the folder.

    Args:
        model: its weights and config.
        tokenizer: of the model.
        target: the folder.
        beside: tensors by their names, in files of their own by their paths inside the folder.
    """
    with write_folder_atomically(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name, tensors in (beside or {}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            save_file(dict(tensors), folder / name)
    return target


def save_sealed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> Path:
    """Write a model and its tokenizer as a folder with its hashes, for `is_whole`, and return the folder."""
    seal(save_checkpoint(model, tokenizer, target))
    return target


def is_whole(target: Path) -> bool:
    """Whether a folder is what `save_sealed` wrote; the log says so where it is damaged."""
    if not target.is_dir():
        return False
    reason = damage(target, remembered=True)
    if reason is not None:
        logger.warning("%s is damaged (%s): it is rebuilt", target.absolute(), reason)
    return reason is None


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    own = dict(LAYERWISE_CLASSES.values())
    found = own.get(type(config)) or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return cast("type[PreTrainedModel]", found)
