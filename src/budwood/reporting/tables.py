"""Compare the teacher and the arms on the same validation sequences."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from budwood.evaluation.statistics import mean_and_error, summarise
from budwood.records.names import BASELINE
from budwood.records.teacher import HeldOutText, TeacherEvaluation, TeacherRecord
from budwood.records.training import Score
from budwood.reporting import formats
from budwood.reporting.matching import mismatches, runs_by_arm
from budwood.search.choice import CONFIDENCE

NOISE_STANDARD_ERRORS = 2.0
"""A difference exceeds the noise when it is larger than this many of its standard errors over sequences."""

_DIFFERENCE = ("", "_standard_error", "_noise")
"""Ends of the columns of a difference."""

Columns = dict[str, float | str]
"""A row of a table."""
_Arm = tuple[str, str]
"""The space and the name of an arm of a bin."""
Losses = Mapping[str, Sequence[float]]
"""Mean loss in nats per token of each validation sequence, by source."""


def paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean of `a - b` over sequences and its standard error.

    The pairing removes what makes a sequence hard for both models, which the errors of the two means contain.

    Args:
        a: loss of each sequence under one model, nats per token.
        b: loss of the same sequences, in the same order, under another model.

    Raises:
        ValueError: the numbers of sequences differ, or are zero.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b: {len(a)} and {len(b)} sequences; paired losses need the same sequences")
    return mean_and_error(np.asarray(a, dtype=float) - np.asarray(b, dtype=float))


def verdict(difference: float, standard_error: float, noise: float | None = None) -> str:
    """Return in words whether a difference in loss exceeds the noise: 2 standard errors where nothing else is given."""
    if not np.isfinite(difference) or not np.isfinite(standard_error):
        return "not decidable"
    if abs(difference) <= (NOISE_STANDARD_ERRORS * standard_error if noise is None else noise):
        return "within the noise"
    return "lower, beyond the noise" if difference < 0 else "higher, beyond the noise"


def noise_rule(num_seeds: int) -> str:
    """Return in words what is beyond the noise."""
    if num_seeds == 1:
        return f"more than {NOISE_STANDARD_ERRORS:g} paired standard errors"
    return (
        f"more than the root of the summed squares of {NOISE_STANDARD_ERRORS:g} paired standard errors over sequences "
        f"and {_student(num_seeds):.3g} over the {num_seeds} seeds (Student's t)"
    )


def lead(difference: float, standard_error: float, rival: str, unit: str = "", noise: float | None = None) -> str:
    """Return by how much the best is below a rival, and whether that is beyond the noise."""
    gap, sure = formats.plus_minus(difference, standard_error), verdict(difference, standard_error, noise)
    return f"{gap}{unit} below {rival} ({sure.removeprefix('higher, ')})"


def compared_to_best(losses: Sequence[float], best: Sequence[float] | None) -> dict[str, float]:
    """Return mean loss and paired difference of losses by sequence, with standard errors, and their number.

    Args:
        losses: of one model, nats per token; empty where it has none.
        best: of the model of lowest loss on the same sequences; None where that is this one, or unknown.
    """
    nothing = (np.nan, np.nan)
    loss, error = mean_and_error(losses) if losses else nothing
    difference, of_difference = paired_difference(losses, best) if losses and best is not None else nothing
    pair = {"difference": difference, "difference_standard_error": of_difference}
    return {"loss": loss, "standard_error": error, **pair, "num_sequences": len(losses)}


def verdicts(table: pd.DataFrame) -> list[str]:
    """Return the verdict on every difference of a table; n/a where there is none."""
    columns = [table[f"difference{end}"] for end in _DIFFERENCE]
    return [formats.MISSING if np.isnan(row[0]) else verdict(*row) for row in zip(*columns, strict=True)]


def results_table(arms: Sequence[Score], evaluation: TeacherEvaluation, teacher: TeacherRecord) -> pd.DataFrame:
    """Return one row for the teacher and one per arm.

    Sequences have equal lengths, so the plain mean over the sequences of all sources is the token-weighted loss, and
    its exponential the perplexity. With several seeds, losses are means over them and every standard error includes
    both spreads: the root of the summed squares of that over sequences and that over seeds. Differences are paired over
    sequences and seeds, which read the same text in the same order. Arms that do not match (`matching.mismatches`) have
    no difference.

    Returns:
        Columns `bin`, `space`, `model`, `num_parameters`, `num_seeds`, `tokens`, `student_flops`, `teacher_flops` (of
        one run); those of `summarise` and `difference` with `difference_standard_error` and `difference_noise` (paired,
        the arm minus the variant's `random_init`, nats per token; what exceeds the noise, see `noise_rule`), overall
        and with the suffix `_<source>`; `difference_to_best` with both: paired, minus the bin's arm of lowest loss;
        `num_sequences`, `learning_rate`, `seconds` (of one run), `device`, `precision`. NaN or empty where it does
        not apply.

    Raises:
        ValueError: the sources or numbers of sequences of an arm differ from the teacher's, or are zero.
    """
    teacher_losses, text = evaluation.losses, evaluation.text
    for arm in arms:
        _check_same_sequences(arm, teacher_losses)
    nowhere = dict.fromkeys(("bin", "space", "device", "precision"), "")
    own: Columns = {"model": teacher.name, "num_parameters": teacher.num_parameters}
    nothing = _differences(("", ""), {("", ""): {0: teacher_losses}}, set())
    rows: list[Columns] = [{**nowhere, **own, **_scores({0: teacher_losses}, text), **nothing}]
    by_arm = runs_by_arm(arms)
    for place, runs in by_arm.items():
        others = {key[1:]: other for key, other in by_arm.items() if key[0] == place[0]}
        in_bin = {name: {run.seed: run.losses for run in other} for name, other in others.items()}
        like = {name for name, other in others.items() if not mismatches([*runs, *other])}
        scores = _scores(in_bin[place[1:]], text)
        rows.append({**_arm_columns(runs), **scores, **_differences(place[1:], in_bin, like)})
    lead = ["bin", "space", "model", "num_parameters", "num_seeds", "tokens", "student_flops", "teacher_flops"]
    tail = ["learning_rate", "seconds", "device", "precision"]
    return pd.DataFrame(rows, columns=[*lead, *_scores({0: teacher_losses}, text), *nothing, *tail])


def _check_same_sequences(arm: Score, teacher_losses: Losses) -> None:
    expected = {source: len(values) for source, values in teacher_losses.items()}
    found = {source: len(values) for source, values in arm.losses.items()}
    if found != expected:
        name = "/".join((*arm.variant, arm.arm))
        raise ValueError(
            f"arms: {name} was scored on {found} sequences, the teacher on {expected}; they must be the same"
        )


def _arm_columns(runs: Sequence[Score]) -> Columns:
    shared = {"bin", "space", "num_parameters", "tokens", "student_flops", "teacher_flops"}
    own = runs[0].model_dump(include=shared | {"learning_rate", "device", "precision"})
    seconds = float(np.mean([run.seconds for run in runs]))
    return {**own, "model": runs[0].arm, "num_seeds": len(runs), "seconds": seconds}


def _by_suffix(values: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Return the values of all sources, by name, under the suffix "", and of every source under its own."""
    own = {f"_{source}": np.asarray(losses, dtype=float) for source, losses in values.items()}
    return {"": np.concatenate([own[suffix] for suffix in sorted(own)])} | own


def _scores(runs: Mapping[int, Losses], text: HeldOutText) -> dict[str, float]:
    """Return perplexity, loss and bits per byte with standard errors, overall and by source."""
    by_seed, num_bytes = [_by_suffix(losses) for losses in runs.values()], _by_suffix(text.bytes)
    columns: dict[str, float] = {"num_sequences": by_seed[0][""].size}
    for suffix in by_seed[0]:
        losses = np.stack([values[suffix] for values in by_seed])
        each = [summarise(values, num_bytes[suffix], text.tokens_per_sequence) for values in losses]
        scores = summarise(losses.mean(0), num_bytes[suffix], text.tokens_per_sequence)
        for name, error in (("loss", "standard_error"), ("bits_per_byte", "bits_per_byte_standard_error")):
            scores[error] = _with_seeds(scores[error], [score[name] for score in each])
        columns |= {f"{name}{suffix}": score for name, score in scores.items()}
    return columns


def _with_seeds(error: float, means: Sequence[float]) -> float:
    """Return a standard error over sequences together with that over seeds, where there are several."""
    return error if len(means) == 1 else float(np.hypot(error, mean_and_error(means)[1]))


def _differences(arm: _Arm, in_bin: Mapping[_Arm, Mapping[int, Losses]], like: Collection[_Arm]) -> dict[str, float]:
    """Return the paired differences to the variant's baseline and the bin's best arm, with errors and noise.

    NaN to itself, and to arms that are not among those that were trained alike.
    """
    losses = {name: {seed: _by_suffix(run) for seed, run in runs.items()} for name, runs in in_bin.items()}
    means = {name: np.stack([run[""] for run in runs.values()]).mean(0).mean() for name, runs in losses.items()}
    best = min(means, key=lambda name: float(np.nan_to_num(means[name], nan=np.inf)))
    suffixes = next(iter(losses[arm].values()))
    pairs = {f"difference{{}}{suffix}": ((arm[0], BASELINE), suffix) for suffix in suffixes}
    columns: dict[str, float] = {}
    for column, (other, suffix) in (pairs | {"difference_to_best{}": (best, "")}).items():
        defined = other in losses and other in like and other != arm
        difference = _paired(losses[arm], losses[other], suffix) if defined else (np.nan,) * len(_DIFFERENCE)
        columns |= dict(zip(map(column.format, _DIFFERENCE), difference, strict=True))
    return columns


def _paired(
    runs: Mapping[int, Mapping[str, np.ndarray]], others: Mapping[int, Mapping[str, np.ndarray]], suffix: str
) -> tuple[float, float, float]:
    """Return the mean difference over the seeds that both have, its error over sequences and seeds, and its noise.

    A difference of nothing is within the noise with 95% confidence. The half-widths over sequences and over seeds,
    which are few, add as independent ones do: the root of their summed squares.
    """
    common = sorted(set(runs) & set(others))
    if not common:
        return np.nan, np.nan, np.nan
    gaps = np.stack([runs[seed][suffix] - others[seed][suffix] for seed in common])
    mean, error = mean_and_error(gaps.mean(0))
    noise = NOISE_STANDARD_ERRORS * error
    if len(common) == 1:
        return mean, error, noise
    over_seeds = mean_and_error(gaps.mean(1))[1]
    return mean, float(np.hypot(error, over_seeds)), float(np.hypot(noise, _student(len(common)) * over_seeds))


def _student(num_seeds: int) -> float:
    """Return how many of its standard errors a mean over seeds may be off with 95% confidence."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1))
