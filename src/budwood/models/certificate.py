"""Proof that an exported folder is the child that the search found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import read_config
from budwood.models.teacher import fingerprint

TOLERANCE = 1e-4
"""Largest accepted difference of float32 logits between the child in memory and the folder loaded anew."""
_PROBE_TOKENS = 16
_PROBE_COLUMNS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a certificate says about where a child came from."""

    teacher: str
    teacher_revision: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    ordering: str
    rope: str
    compensation: Sequence[str]
    """Names of the corrections."""
    channels: Sequence[int]
    """For every channel of the child's residual stream, the teacher's."""
    layers: Sequence[int]
    """For every layer of the child in depth order, the teacher's."""


@torch.no_grad()
def certify(
    child: PreTrainedModel, folder: Path, architecture: Architecture, parameter_bin: ParameterBin, origin: Origin
) -> dict[str, Any]:
    """Load an exported folder anew with plain transformers and compare it with the child in memory, in float32.

    Returns:
        a JSON-ready record: counts, bin, largest logit difference, class, hashes, origin, and the logits of a few
        tokens that anybody can compute again.

    Raises:
        ValueError: the folder and the child differ, or the parameter count is not the closed form's or not in the bin.
    """
    ids = probe_ids(architecture.vocab_size)
    config = read_config(folder)
    native = "auto_map" not in config
    # Not budwood's own loader: the folder must hold all that plain transformers needs.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=not native)
    logits = loaded.eval()(input_ids=ids).logits
    difference = float((logits - child.float().eval()(input_ids=ids).logits).abs().max())
    counted = sum(parameter.numel() for parameter in loaded.parameters())
    record = {
        "num_parameters": counted,
        "num_parameters_closed_form": num_parameters(architecture),
        "parameter_bin": [parameter_bin.low, parameter_bin.high],
        "largest_logit_difference": difference,
        "tolerance": TOLERANCE,
        "native": native,
        "class": config["architectures"][0],
        "fingerprint": fingerprint(folder),
        "teacher": origin.teacher,
        "teacher_revision": origin.teacher_revision,
        "teacher_fingerprint": origin.teacher_fingerprint,
        "corpus_fingerprint": origin.corpus_fingerprint,
        "ordering": origin.ordering,
        "rope": origin.rope,
        "compensation": list(origin.compensation),
        "kept_channels": list(origin.channels),
        "kept_layers": list(origin.layers),
        "probe": {"input_ids": ids[0].tolist(), "columns": _columns(architecture.vocab_size)}
        | {"logits": logits[0, :, _columns(architecture.vocab_size)].tolist()},
    }
    _refuse_defects(record, parameter_bin)
    return record


def probe_ids(vocab_size: int) -> Tensor:
    """Return [1, 16] token ids spread over the vocabulary."""
    return (torch.arange(1, _PROBE_TOKENS + 1) * 7919 % vocab_size)[None]


def _columns(vocab_size: int) -> Sequence[int]:
    return list(range(0, vocab_size, max(1, vocab_size // _PROBE_COLUMNS)))


def _refuse_defects(record: dict[str, Any], parameter_bin: ParameterBin) -> None:
    if record["largest_logit_difference"] > TOLERANCE:
        raise ValueError(
            f"the exported folder computes other logits than the child (largest difference "
            f"{record['largest_logit_difference']:.2e}, allowed {TOLERANCE:.0e}): it is not fit for use"
        )
    if record["num_parameters"] != record["num_parameters_closed_form"]:
        raise ValueError(
            f"the exported folder has {record['num_parameters']:,} parameters, "
            f"the closed form {record['num_parameters_closed_form']:,}"
        )
    if record["num_parameters"] not in parameter_bin:
        raise ValueError(f"the exported folder has {record['num_parameters']:,} parameters, outside {parameter_bin}")
