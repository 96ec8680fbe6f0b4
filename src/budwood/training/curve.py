"""The losses of a run: written, reported, continued after an interruption, and watched for divergence."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Required, TypedDict, cast

from budwood.records.files import read_json_lines, write_atomically, write_json_lines
from budwood.records.tracking import Track


class CurveRow(TypedDict, total=False):
    """A training loss with its learning rate, or a held-out loss, after a step."""

    step: Required[int]
    train_loss: float
    learning_rate: float
    heldout_loss: float
    heldout_losses: list[float]
    """The same by sequence."""


CURVE_FILE = "curve.jsonl"
CURVE_STATE = "curve.json"
"""Of a checkpoint: the curve until then."""
CURVE_ROWS = 100
"""Training losses of a run, about, where it has as many steps."""


@dataclass(slots=True)
class Curve:
    """The rows of a run, and the losses of steps that no row averages yet, so that an interruption leaves no trace."""

    rows: list[CurveRow] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Wall-clock time of the run until its checkpoint."""
    first_loss: float | None = None
    """Of the objective, at the first step."""

    def save(self, checkpoint: Path) -> None:
        """Write the curve into a checkpoint."""
        write_atomically(checkpoint / CURVE_STATE, json.dumps(asdict(self)))

    @classmethod
    def load(cls, checkpoint: Path | None) -> "Curve":
        """Return the curve of a checkpoint; an empty one without a checkpoint."""
        return (
            cls() if checkpoint is None else cls(**json.loads((checkpoint / CURVE_STATE).read_text(encoding="utf-8")))
        )


def read_curve(output_folder: Path) -> list[CurveRow]:
    """Return the rows of a run's curve."""
    return cast("list[CurveRow]", read_json_lines(output_folder / CURVE_FILE))


def write_curve(output_folder: Path, rows: list[CurveRow]) -> None:
    """Replace a run's curve."""
    write_json_lines(output_folder / CURVE_FILE, rows)


def replay_curve(output_folder: Path, track: Track | None) -> None:
    """Report the losses that an earlier process measured, so that the tracked curves are whole."""
    for row in read_curve(output_folder):
        track_row(track, row)


def track_row(track: Track | None, row: Mapping[str, Any]) -> None:
    """Report the metrics of a row, under the same names in every run, so that curves of several overlay."""
    if track:
        track({name: value for name, value in row.items() if name not in {"step", "heldout_losses"}}, int(row["step"]))


def divergence_limit(vocab_size: int, untrained: float, weight: float, first_loss: float) -> float:
    """Return the loss above which a run has diverged: twice that of guessing, or twice its first where that is more.

    A divergence such as the reverse one may begin far above what guessing costs.

    Args:
        vocab_size: guessing costs its logarithm.
        untrained: held-out cross-entropy before the first step.
        weight: of the objective: `alpha + beta * T^2`, or one.
        first_loss: of the objective, at the first step.
    """
    return 2 * max(weight * max(untrained, math.log(vocab_size)), first_loss)
