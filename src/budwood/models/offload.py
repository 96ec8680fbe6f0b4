"""A model of plain transformers that has the weights of a module only while the module runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import cpu_offload
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter

from budwood.arch.family import family_of
from budwood.models.checkpoint import OWN_MODELS, Checkpoint, build_empty
from budwood.models.device import release_memory
from budwood.models.tensors import Lazy


@contextmanager
def offloaded(checkpoint: Checkpoint) -> Iterator[PreTrainedModel]:
    """Yield a checkpoint's model in float32, in evaluation mode, as transformers loads and runs it.

    Transformers finds the weights; accelerate gives every module its own when it is called, and takes them away after.
    Weights of layers are read from their files, those of the embedding and the head are mapped. What is in memory does
    not depend on depth, unless a file has weights in several precisions.

    Args:
        checkpoint: of a stock class, or one that budwood wrote with a class of its own.
    """
    # Not budwood's own loader: it settles ties by itself.
    model_class: Any = OWN_MODELS.get(checkpoint.config["model_type"], AutoModelForCausalLM)
    with TemporaryDirectory() as converted, _without_warning():
        stored: PreTrainedModel = model_class.from_pretrained(
            checkpoint.folder,
            # In any other precision transformers would convert all weights first.
            dtype=checkpoint.stored_dtype,
            use_safetensors=True,
            device_map=_places(checkpoint),
            offload_folder=converted,
        )
        known = dict(chain(stored.named_parameters(remove_duplicate=False), stored.named_buffers()))

        def weight(name: str) -> Tensor:
            tensor = load_offloaded_parameter(stored, name) if known[name].is_meta else known[name]
            return tensor.to(torch.float32)

        # Built again, because some constants are rounded to the precision in which a model is loaded.
        model = build_empty(stored.config, type(stored)).eval()
        for layer in model.get_submodule(family_of(checkpoint.architecture.family).decoder).children():
            layer.register_forward_hook(_release)
        yield cpu_offload(model, torch.device("cpu"), state_dict=Lazy(known, weight))
        # Hooks refer to their modules, so nothing goes before Python looks for cycles.
        for parameter in stored.parameters():
            parameter.data = parameter.data.new_empty(0)


def _places(checkpoint: Checkpoint) -> dict[str, str]:
    """Return where the weights of modules are; those that may be tied are compared, so they must be at hand."""
    family, depth = family_of(checkpoint.architecture.family), checkpoint.architecture.num_hidden_layers
    places = {module.name: "cpu" for module in (family.embedding, family.final_norm, family.head)}
    return places | {f"{family.decoder}.{layer}": "disk" for layer in range(depth)}


def _release(*_: object) -> None:
    release_memory()  # what modules have lost is full of holes


@contextmanager
def _without_warning() -> Iterator[None]:
    """Keep accelerate from warning that weights are on disk, where they should be."""
    logger = logging.getLogger("accelerate.big_modeling")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
