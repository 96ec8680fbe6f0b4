"""Build the dense child that a candidate stands for; what a search evaluates is what an export saves."""

from dataclasses import replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from budwood.arch.spec import Architecture
from budwood.subnet.checkpoint import build_empty, model_config
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.rotary import rope_for_pairs
from budwood.subnet.selection import Selection, select_prefixes
from budwood.subnet.slicing import State, slice_state


def select(teacher: OrderedTeacher, architecture: Architecture) -> Selection:
    """Return what a coarse candidate keeps of an ordered teacher."""
    return select_prefixes(architecture, teacher.layer_ranking, teacher.qk_dims)


def extract_child(teacher: OrderedTeacher, architecture: Architecture) -> PreTrainedModel:
    """Cut a candidate out of its teacher as a dense model in evaluation mode.

    Uniform results are of the family's stock class, layer-wise ones of ours. Weights that are prefixes of whole axes
    share the teacher's memory: pass the child through `own_weights` before it is saved or trained.
    """
    selection = select(teacher, architecture)
    child = build_empty(child_config(teacher, architecture, selection))
    child.load_state_dict(child_state(teacher, selection), assign=True, strict=False)
    child.tie_weights()
    missing = [name for name, parameter in child.named_parameters() if parameter.is_meta]
    assert not missing, f"extraction left {missing} without weights"
    child.eval()
    return child


def own_weights(child: PreTrainedModel) -> PreTrainedModel:
    """Give a child contiguous weights of its own, and return it."""
    for parameter in child.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return child


def child_state(teacher: OrderedTeacher, selection: Selection) -> State:
    """Slice the ordered teacher, and mend the scale of what was cut: norm gain and attention temperature."""
    family = teacher.family
    state = slice_state(teacher.state, family, teacher.architecture, selection)
    gain = teacher.norm_gain[:, len(selection.hidden) - 1].tolist()
    _scale(state, family.final_norm.weight, gain[-1])
    for position, layer in enumerate(selection.layers):
        first = 2 * layer.teacher_layer
        _scale(state, family.layer_weight(position, family.input_norm), gain[first])
        _scale(state, family.layer_weight(position, family.attention_norm), gain[first + 1])
        teacher_dim = teacher.architecture.layers[layer.teacher_layer].head_dim
        if teacher.rope == "preserve":
            # A stock model divides scores by sqrt(d'), the teacher's were divided by sqrt(d).
            temperature = (len(layer.qk) / teacher_dim) ** 0.5
            _scale(state, family.layer_weight(position, family.query), temperature)
    return state


def child_config(teacher: OrderedTeacher, architecture: Architecture, selection: Selection) -> PretrainedConfig:
    """Return the Hugging Face configuration of a child."""
    layers = selection.layer_specs
    ropes = [_rope(teacher, spec.head_dim) for spec in layers]
    dtype = str(teacher.state[teacher.family.embedding.weight].dtype).removeprefix("torch.")
    return model_config(teacher.config | {"dtype": dtype}, replace(architecture, layers=layers), ropes)


def _scale(state: State, name: str, factor: float) -> None:
    if factor != 1:
        state[name] = state[name] * factor


def _rope(teacher: OrderedTeacher, head_dim: int) -> dict[str, Any]:
    rope: dict[str, Any] = teacher.config["rope_parameters"]
    teacher_dim = teacher.architecture.layers[0].head_dim
    if teacher.rope == "rebuild" or head_dim == teacher_dim:
        return rope
    pairs = sorted(teacher.pair_ranking[: head_dim // 2])
    return rope_for_pairs(rope, pairs, teacher_dim, teacher.config["max_position_embeddings"])
