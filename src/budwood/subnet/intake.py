"""A teacher is taken in only where all ways of reading it agree."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from budwood.arch.family import family_of
from budwood.arch.selection import Selection
from budwood.models.checkpoint import Checkpoint, build_empty, config_object
from budwood.models.offload import offloaded
from budwood.models.probe import PROBE_TOLERANCE, largest_difference, probe_ids
from budwood.models.stream import hollow, logits_by_part
from budwood.models.tensors import CheckpointTensors, State, fuse
from budwood.records.teacher import IntakeRecord
from budwood.subnet.compensate import cut_out
from budwood.subnet.ordering import order_teacher
from budwood.subnet.settings import Ordering


def verify_teacher(teacher: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> IntakeRecord:
    """Compare the teacher of plain transformers with our reading of its files and with its whole cut, in float32.

    All three run one after the other, and none is ever whole in memory.

    Args:
        teacher: its checkpoint.
        tokenizer: the teacher's.

    Raises:
        ValueError: they do not give the same logits on a few real tokens, or logits that are not finite.
    """
    config, architecture = teacher.config, teacher.architecture
    ids = probe_ids(tokenizer, architecture.vocab_size, config["max_position_embeddings"])
    expected = _plain(teacher, ids)
    if not expected.isfinite().all():
        raise ValueError(f"teacher.model: {teacher.folder} gives logits that are not finite; its weights are damaged")
    weights = CheckpointTensors(teacher.folder, architecture)
    record = IntakeRecord(
        num_tokens=ids.shape[1],
        dtype="float32",
        tolerance=PROBE_TOLERANCE,
        reading_difference=largest_difference(expected, _read(teacher, weights, ids)),
        cut_difference=largest_difference(expected, _cut(teacher, weights, ids)),
    )
    differences = {"our reading of its files": record.reading_difference, "its whole cut": record.cut_difference}
    for name, difference in differences.items():
        # Not `>`: a difference that is no number must not pass.
        if not difference <= record.tolerance:
            raise ValueError(
                f"teacher.model: {teacher.folder} cannot be cut: {name} computes something else than transformers does "
                f"(logits differ by {difference:.1e}, allowed are {record.tolerance:.0e})"
            )
    return record


@torch.no_grad()
def _plain(teacher: Checkpoint, ids: Tensor) -> Tensor:
    with offloaded(teacher) as model:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _read(teacher: Checkpoint, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    family, architecture = family_of(teacher.architecture.family), teacher.architecture
    parts = family.parts(architecture.num_hidden_layers, tied=architecture.tie_word_embeddings)
    states = ({name: weights[name] for name, _, _ in parameters} for parameters in parts)
    return _logits(config_object(teacher.config), states, teacher, ids)


def _cut(teacher: Checkpoint, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    ordered = order_teacher(weights, teacher.config, teacher.architecture, Ordering(ordering="native"))
    whole = cut_out(ordered, Selection.prefix(ordered.ranked), ids, None)
    return _logits(whole.config, whole.states, teacher, ids)


def _logits(config: PretrainedConfig, states: Iterable[State], teacher: Checkpoint, ids: Tensor) -> Tensor:
    """Return [1, T, V] the logits of a model of the teacher's architecture whose parameters come part by part."""
    decoder = family_of(teacher.architecture.family).decoder
    model = hollow(build_empty(config), decoder, ids.device, torch.float32)
    # A loop would keep a part while the next one is made.
    parts = map(partial(fuse, architecture=teacher.architecture), states)
    (logits,) = logits_by_part(model, decoder, parts, [ids])
    return logits
