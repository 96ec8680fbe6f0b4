"""Proof that an exported folder is the child that the search found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import fingerprint, load_config, load_tokenizer, read_config
from budwood.models.probe import largest_difference, probe_ids, probe_logits
from budwood.records.certificate import Certificate, LogitProbe

PROBE = "probe.safetensors"
"""Beside a cut that has no certificate yet: what the child in memory answered."""
TOLERANCE = 1e-4
"""Largest accepted difference of float32 logits between the child in memory and the folder loaded anew."""
_SPREAD_TOKENS = 16
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


def write_probe(child: PreTrainedModel, folder: Path) -> None:
    """Write beside a cut what the child in memory answers, for `certify`.

    Args:
        child: in memory.
        folder: its checkpoint, with the tokenizer.
    """
    child = child.float()
    tensors = {}
    for number, ids in enumerate(_probes(folder)):
        tensors |= {f"ids_{number}": ids, f"logits_{number}": probe_logits(child, ids)}
    save_file(tensors, folder / PROBE)


def certify(folder: Path, architecture: Architecture, parameter_bin: ParameterBin, origin: Origin) -> Certificate:
    """Load an exported folder anew with plain transformers and compare it with the child in memory, in float32.

    Args:
        folder: the export, with the answers that `write_probe` wrote; they are removed.
        architecture: the child's.
        parameter_bin: in which its number of parameters must lie.
        origin: where it came from.

    Raises:
        ValueError: the folder and the child differ, or the parameter count is not the closed form's or not in the bin.
    """
    expected = load_file(folder / PROBE)
    (folder / PROBE).unlink()
    config = read_config(folder)
    native = "auto_map" not in config
    # Not budwood's own loader: the folder must hold all that plain transformers needs.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=not native)
    probes = [(expected[f"ids_{number}"], expected[f"logits_{number}"]) for number in range(len(expected) // 2)]
    differences = [largest_difference(probe_logits(loaded, ids), logits) for ids, logits in probes]
    certificate = Certificate(
        num_parameters=sum(parameter.numel() for parameter in loaded.parameters()),
        num_parameters_closed_form=num_parameters(architecture),
        parameter_bin=(parameter_bin.low, parameter_bin.high),
        largest_logit_difference=max(differences),
        tolerance=TOLERANCE,
        native=native,
        class_name=config["architectures"][0],
        fingerprint=fingerprint(folder),
        teacher=origin.teacher,
        teacher_revision=origin.teacher_revision,
        teacher_fingerprint=origin.teacher_fingerprint,
        corpus_fingerprint=origin.corpus_fingerprint,
        ordering=origin.ordering,
        rope=origin.rope,
        compensation=tuple(origin.compensation),
        kept_channels=tuple(origin.channels),
        kept_layers=tuple(origin.layers),
        probes=tuple(_as_record(ids, logits) for ids, logits in probes),
    )
    _refuse_defects(certificate, parameter_bin)
    return certificate


def _probes(folder: Path) -> list[Tensor]:
    """Return [1, T] token ids spread over the vocabulary, and those of a text."""
    config = load_config(folder)
    vocab_size, longest = int(config["vocab_size"]), int(config["max_position_embeddings"])
    spread = (torch.arange(1, min(_SPREAD_TOKENS, longest) + 1) * 7919 % vocab_size)[None]
    return [spread, probe_ids(load_tokenizer(folder), vocab_size, longest)]


def _as_record(ids: Tensor, logits: Tensor) -> LogitProbe:
    vocab_size = logits.shape[-1]
    columns = tuple(range(0, vocab_size, max(1, vocab_size // _PROBE_COLUMNS)))
    return LogitProbe(input_ids=ids[0].tolist(), columns=columns, logits=logits[0][:, list(columns)].tolist())


def _refuse_defects(certificate: Certificate, parameter_bin: ParameterBin) -> None:
    # Written so that NaN is a defect.
    if not certificate.largest_logit_difference <= TOLERANCE:
        raise ValueError(
            f"the exported folder computes other logits than the child (largest difference "
            f"{certificate.largest_logit_difference:.2e}, allowed {TOLERANCE:.0e}): it is not fit for use"
        )
    if certificate.num_parameters != certificate.num_parameters_closed_form:
        raise ValueError(
            f"the exported folder has {certificate.num_parameters:,} parameters, "
            f"the closed form {certificate.num_parameters_closed_form:,}"
        )
    if certificate.num_parameters not in parameter_bin:
        raise ValueError(f"the exported folder has {certificate.num_parameters:,} parameters, outside {parameter_bin}")
