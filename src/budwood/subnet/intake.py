"""A teacher is taken in only where all ways of reading it agree."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import OWN_MODELS, Checkpoint, config_object
from budwood.models.probe import PROBE_TOLERANCE, largest_difference, probe_ids, probe_logits
from budwood.models.tensors import CheckpointTensors
from budwood.records.teacher import IntakeRecord
from budwood.subnet.extract import assemble, extract_child
from budwood.subnet.ordering import order_teacher
from budwood.subnet.settings import Ordering

_LOOSE_TOLERANCE = 2e-2
"""Of logits in bfloat16, whose values have 8 significant bits."""


def verify_teacher(
    teacher: Checkpoint, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None = None
) -> IntakeRecord:
    """Compare the teacher of plain transformers with our reading of its files and with its whole cut.

    The three models are in memory one after the other.

    Args:
        teacher: its checkpoint.
        tokenizer: the teacher's.
        dtype: in which they run; float32 where a model in it fits into the free memory, else bfloat16.

    Raises:
        ValueError: they do not give the same logits on a few real tokens, or logits that are not finite.
    """
    config, architecture = teacher.config, teacher.architecture
    dtype = dtype or fitting_dtype(architecture)
    ids = probe_ids(tokenizer, architecture.vocab_size, config["max_position_embeddings"])
    expected = _plain(teacher, dtype, ids)
    if not expected.isfinite().all():
        raise ValueError(f"teacher.model: {teacher.folder} gives logits that are not finite; its weights are damaged")
    weights = {name: tensor.to(dtype) for name, tensor in CheckpointTensors(teacher.folder, architecture).items()}
    record = IntakeRecord(
        num_tokens=ids.shape[1],
        dtype=str(dtype).removeprefix("torch."),
        tolerance=PROBE_TOLERANCE if dtype == torch.float32 else _LOOSE_TOLERANCE,
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


def fitting_dtype(architecture: Architecture) -> torch.dtype:
    """Return float32 where twice a model in it fits into the free memory, as loading may need, else bfloat16."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.float32 if 2 * 4 * num_parameters(architecture) <= free else torch.bfloat16


def _plain(teacher: Checkpoint, dtype: torch.dtype, ids: Tensor) -> Tensor:
    if teacher.config["model_type"] in OWN_MODELS:
        return probe_logits(teacher.load_model(dtype), ids)
    # Not budwood's own loader: it settles ties by itself.
    return probe_logits(AutoModelForCausalLM.from_pretrained(teacher.folder, dtype=dtype), ids)


def _read(teacher: Checkpoint, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    return probe_logits(assemble(weights, config_object(teacher.config), teacher.architecture), ids)


def _cut(teacher: Checkpoint, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    ordered = order_teacher(weights, teacher.config, teacher.architecture, Ordering(ordering="native"))
    return probe_logits(extract_child(ordered, Selection.prefix(ordered.ranked)), ids)
