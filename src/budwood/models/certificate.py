"""Proof that an exported folder is the child that the search found."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty
from budwood.models.kind import read_config
from budwood.models.stream import hollow, logits_by_part, parts_of
from budwood.records.certificate import LogitProbe, Proof

LOGIT_TOLERANCE = 1e-4
"""Largest accepted difference of float32 logits between the child in memory and the folder loaded again."""
_PROBE_LENGTHS = (1, 16, 256)
_SHOWN_TOKENS = 16
_SHOWN_COLUMNS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a child computes that is in memory, or whose layers are one after the other."""

    logits: list[Tensor]
    """[1, T, V] of every text, in float32."""
    dtypes: Mapping[str, int]
    """Parameters of every precision."""


def expect(
    model: PreTrainedModel, parts: Iterable[Mapping[str, Tensor]], decoder: str, tokens: Tensor, device: torch.device
) -> Expected:
    """Run the texts of a proof through a child in float32, layer by layer as it is made.

    Args:
        model: of the child's class and configuration; it loses its weights.
        parts: the child's parameters, see `budwood.models.stream.logits_by_part`.
        decoder: path of its layers.
        tokens: [T] ids of real text; its first 1, 16 and 256 tokens are read, or as many as there are.
        device: where it runs.
    """
    counts: Counter[str] = Counter()

    def counted(part: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for weight in part.values():
            counts[str(weight.dtype).removeprefix("torch.")] += weight.numel()
        return part

    lengths = probe_lengths(len(tokens), model.config.max_position_embeddings)
    texts = [tokens[None, :length] for length in lengths]
    model = hollow(model, decoder, device, torch.float32)
    # A loop would keep a part while the next one is made.
    logits = logits_by_part(model, decoder, map(counted, parts), texts)
    return Expected(logits=logits, dtypes=dict(counts))


def prove(
    expected: Expected, folder: Path, architecture: Architecture, parameter_bin: ParameterBin, tokens: Tensor
) -> Proof:
    """Load a folder again with plain transformers and compare it with the child, in float32.

    Args:
        expected: of the child.
        folder: its checkpoint.
        architecture: the child's, layers in depth order.
        parameter_bin: in which the child must lie.
        tokens: [T] ids of the same text.

    Raises:
        ValueError: the folder and the child differ, or compute what is no number, or the parameter count is not the
            closed form's or not in the bin.
    """
    config, decoder = read_config(folder), family_of(architecture.family).decoder
    native = "auto_map" not in config
    exact = reduce(torch.promote_types, (getattr(torch, name) for name in expected.dtypes))
    # Not budwood's own loader: the folder must have all that plain transformers needs.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=exact, trust_remote_code=not native)
    counted = sum(parameter.numel() for parameter in loaded.parameters())
    _refuse_size(counted, num_parameters(architecture), parameter_bin)
    # Built again, because some constants are rounded to the precision in which a model is loaded.
    parts, device = parts_of(loaded, decoder, consume=True), expected.logits[0].device
    reloaded = expect(build_empty(loaded.config, type(loaded)), parts, decoder, tokens, device).logits
    difference = max_difference(reloaded, expected.logits)
    if not difference <= LOGIT_TOLERANCE:
        raise ValueError(
            f"the exported folder computes other logits than the child (largest difference {difference:.2e}, allowed "
            f"{LOGIT_TOLERANCE:.0e}): it is not fit for use"
        )
    return Proof(
        num_parameters=counted,
        num_parameters_closed_form=num_parameters(architecture),
        parameter_bin=(parameter_bin.low, parameter_bin.high),
        largest_logit_difference=difference,
        tolerance=LOGIT_TOLERANCE,
        probe_lengths=tuple(logits.shape[1] for logits in reloaded),
        probe=_probe(tokens, reloaded[-1][0]),
        dtypes=dict(expected.dtypes),
        native=native,
        **{"class": config["architectures"][0]},
    )


def probe_lengths(num_tokens: int, num_positions: int | None = None) -> tuple[int, ...]:
    """Return the tokens of the texts on which a child and its folder are compared.

    Args:
        num_tokens: of the text at hand.
        num_positions: of the child; None: enough.
    """
    longest = num_tokens if num_positions is None else min(num_tokens, num_positions)
    assert longest > 0, "no token to compare"
    return tuple(sorted({min(length, longest) for length in _PROBE_LENGTHS}))


def max_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference between two models' [T, V] logits of several texts; NaN where any is no number."""
    # On tensors: Python's `max` passes over NaN.
    pairs = zip(ours, theirs, strict=True)
    # Some positions at a time: logits of a large vocabulary take more than a layer.
    rows = [pair for a, b in pairs for pair in zip(a.split(_SHOWN_TOKENS, 1), b.split(_SHOWN_TOKENS, 1), strict=True)]
    return float(torch.stack([(a - b).abs_().max() for a, b in rows]).max())


def _probe(ids: Tensor, logits: Tensor) -> LogitProbe:
    columns = list(range(0, logits.shape[-1], max(1, logits.shape[-1] // _SHOWN_COLUMNS)))
    shown = logits[:_SHOWN_TOKENS, columns]
    return LogitProbe(
        input_ids=tuple(ids[: len(shown)].tolist()), columns=tuple(columns), logits=tuple(map(tuple, shown.tolist()))
    )


def _refuse_size(counted: int, closed_form: int, parameter_bin: ParameterBin) -> None:
    if counted != closed_form:
        raise ValueError(f"the exported folder has {counted:,} parameters, the closed form {closed_form:,}")
    if counted not in parameter_bin:
        raise ValueError(f"the exported folder has {counted:,} parameters, outside {parameter_bin}")
