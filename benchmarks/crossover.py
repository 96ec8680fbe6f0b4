"""How far the lead of a good start reaches: students of SmolLM2-135M against the tokens they are trained on.

All students have one shape, that of the cut which a short search finds, as `study.py` searches. Three arms: `random`
(the family's own initialisation), `compensated` (the cut, corrected and refitted) and `distilled` (the same under the
teacher, 0.2 CE + 0.8 KL on all of its logits). They read Wikipedia and presidential addresses in one order, at most
twice. Their schedule is warmup-stable-decay, so that one long run gives every budget: a budget branches off before its
decay and takes a fifth of its steps for it. The peak rates are those that sweeps of `study.py` and `peers_quality.py`
found best; `--rate random=0.003` repeats an arm at another one.

Losses are nats per token of 48 validation sequences of each source that nothing was chosen on. The lead is the loss of
`random` less that of another arm, in pairs of seed and sequence. It is fitted by two lines: the lead over the logarithm
of tokens, which can cross zero, and the logarithm of the lead, which cannot. Their intervals are 95% of a bootstrap
over sequences. They contain the spread between seeds only where there are several, and never the risk that the line is
the wrong one.

FLOPs of a budget are all it takes to make its student: training, held-out losses on the way, the teacher, and for cuts
the ranking of components, the search, the correction and the refit. `equal_flops_lead` is the lead where `random` gets
as many FLOPs as the other arm, along a straight line between its budgets in the logarithm of FLOPs.
`parent_charged_tokens` is how many tokens `random` could read for the FLOPs of the teacher's own training
(`PARENT_TOKENS`): with the parent charged to one student, no budget below that pays.

Usage: python benchmarks/crossover.py [--size quarter] [--seeds 0] [--most 4014080] [--arms random compensated ...].
Runs that are finished are kept in the cache folder and not repeated; a killed one continues from its checkpoint. About
ten hours on one core that multiplies bfloat16, small budgets first; a line is printed after each.

Every line of the output is a JSON object, the last one the whole result: `tokens`; `random`, `compensated`, `distilled`
(means over seeds and sequences by budget, null where a run is missing), `lead_error` and `crossing_tokens` of
`compensated` (null where the line does not fall), and the same and more for both arms under `leads`.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quickstart import ADDRESSES, CACHE_DIR, LENGTH, open_quickstart, refitting, spent
from search import UNTRAINED_SPACE
from stages import BINS, NUM_REFIT, SETTINGS
from study import crossed_mean

from budwood import Schedule
from budwood.arch.count import num_parameters, training_flops_per_token
from budwood.models.device import Compute
from budwood.study.evaluation import ScoreRun
from budwood.study.training import Trained

ARMS = ("random", "compensated", "distilled")
RATES = {"random": 1e-3, "compensated": 3e-4, "distilled": 3e-4}
BUDGETS = (100_352, 200_704, 501_760, 1_003_520, 2_007_040, 4_014_080)
"""Whole steps of 1,024 tokens."""
PARENT_TOKENS = 2e12
"""That SmolLM2-135M was trained on, as its model card says."""
BATCH, NUM_HELDOUT, MOST_EPOCHS, NUM_RESAMPLES = 4, 48, 2, 2000
EXACT = Compute(torch.device("cpu"), "float32")

Losses = NDArray[np.float64]
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One student."""

    arm: str
    tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Point:
    """What a student is worth, and what it took to make it."""

    losses: Losses
    """[N]"""
    flops: float
    folder: Path
    """In which it is."""


class Crossover:
    """The teacher, the text, the cut, and its students."""

    def __init__(self, cache_dir: Path, size: str, rates: dict[str, float]) -> None:
        """Open the text and find the cut."""
        study, self.rates = open_quickstart(cache_dir, addresses=ADDRESSES), rates
        self.study = refitting(study, NUM_REFIT)
        self.cut = self.study.search({size: BINS[size]}, space=UNTRAINED_SPACE, settings=SETTINGS)[size]
        self.architecture = self.cut.checkpoint.architecture

    def point(self, run: Run) -> Point:
        """Return what a student is worth, after training it where it is not finished."""
        trained = self._train(run)
        stage = ScoreRun(
            run_name=f"{run.arm}-{run.tokens}-{run.seed}",
            model=trained.model,
            record=trained.record,
            tokens=self.study.tokens,
            length=LENGTH,
            validation=NUM_HELDOUT,
            compute=EXACT,
        )
        losses = self.study.workspace.finish(stage).score.losses
        training = sum(cost.flops for cost in trained.record.costs)
        flops, folder = training + self._fixed(run.arm), trained.model.folder
        return Point(np.concatenate([losses[source] for source in sorted(losses)]), flops, folder)

    def _fixed(self, arm: str) -> float:
        """Return the FLOPs of an arm before its training."""
        return 0.0 if arm == "random" else spent(self.study, self.cut)["flops"]

    def _train(self, run: Run) -> Trained:
        train = self.study.distill if run.arm == "distilled" else self.study.pretrain
        beside = {"random": True} if run.arm == "random" else {}
        schedule = self.schedule(run)
        return train(self.cut.checkpoint, schedule=schedule, learning_rate=self.rates[run.arm], **beside)

    def schedule(self, run: Run) -> Schedule:
        """Return the schedule of a run, which reads no text more than twice."""
        schedule = Schedule(
            tokens=run.tokens,
            sequence_length=LENGTH,
            global_batch=BATCH,
            micro_batch=BATCH,
            shape="warmup_stable_decay",
            warmup_steps=8,
            checkpoint_steps=100,
            seed=run.seed,
        )
        once = len(self.study.tokens.window_starts("train", LENGTH))
        assert schedule.num_sequences <= MOST_EPOCHS * once, f"{run} needs more than {MOST_EPOCHS} x {once} sequences"
        return schedule

    @property
    def parent_charged_tokens(self) -> float:
        """Tokens of `random` that cost as much as the teacher's training."""
        parent = PARENT_TOKENS * training_flops_per_token(self.study.teacher.architecture, context=LENGTH)
        return parent / training_flops_per_token(self.architecture, context=LENGTH)


def summary(points: dict[Run, Point], budgets: list[int]) -> Result:
    """Return the figures of all runs that are finished."""
    table = {arm: [_stack(points, arm, tokens) for tokens in budgets] for arm in ARMS}
    means = {arm: [None if each is None else round(float(each.mean()), 4) for each in of] for arm, of in table.items()}
    flops = {arm: [_flops(points, arm, tokens) for tokens in budgets] for arm in ARMS}
    leads = {arm: lead_figures(points, budgets, arm) for arm in ARMS[1:]}
    for arm, of in leads.items():
        of["equal_flops_lead"] = equal_flops_lead(means, flops, arm)
    seeds = {arm: sorted({run.seed for run in points if run.arm == arm}) for arm in ARMS}
    main = {name: leads["compensated"][name] for name in ("lead_error", "crossing_tokens")}
    return {"tokens": budgets, **means, **main, "leads": leads, "flops": flops, "seeds": seeds}


def _stack(points: dict[Run, Point], arm: str, tokens: int, seeds: tuple[int, ...] | None = None) -> Losses | None:
    """Return [S, N] losses of an arm at a budget; None where no seed is finished."""
    found = [
        point.losses
        for run, point in sorted(points.items(), key=lambda item: item[0].seed)
        if (run.arm, run.tokens) == (arm, tokens) and (seeds is None or run.seed in seeds)
    ]
    return np.stack(found) if found else None


def _flops(points: dict[Run, Point], arm: str, tokens: int) -> float | None:
    return next((point.flops for run, point in points.items() if (run.arm, run.tokens) == (arm, tokens)), None)


def lead_figures(points: dict[Run, Point], budgets: list[int], arm: str) -> Result:
    """Return an arm's lead by budget with its error, and what two lines make of it."""
    pairs: dict[int, Losses] = {}
    for tokens in budgets:
        seeds = tuple({run.seed for run in points if (run.arm, run.tokens) == (arm, tokens)})
        random, own = (_stack(points, name, tokens, seeds) for name in ("random", arm))
        if random is not None and own is not None and random.shape == own.shape:
            pairs[tokens] = random - own
    leads = {tokens: crossed_mean(pair) for tokens, pair in pairs.items()}
    listed = [leads.get(tokens) for tokens in budgets]
    figures: Result = {
        "lead": [each and round(each[0], 4) for each in listed],
        "lead_error": [each and round(each[1], 4) for each in listed],
    }
    return figures | fit(np.array(list(pairs)), list(pairs.values()))


def fit(tokens: NDArray[np.float64], pairs: list[Losses]) -> Result:
    """Return both lines through the leads, with intervals from resampled sequences and seeds.

    Args:
        tokens: [P] budgets.
        pairs: [S, N] leads of every budget; the sequences are the same in all.
    """
    if len(pairs) < 3:  # noqa: PLR2004 - two points give no line an error
        return {"per_decade": None, "per_decade_interval": None, "crossing_tokens": None, "crossing_interval": None}
    rng, number = np.random.default_rng(0), pairs[0].shape[1]
    means = np.array([pair.mean() for pair in pairs])
    drawn = [rng.integers(number, size=number) for _ in range(NUM_RESAMPLES)]
    resampled = np.array(
        [[pair[rng.integers(len(pair), size=len(pair))][:, own].mean() for pair in pairs] for own in drawn]
    )
    slope, crossing = _line(tokens, means)
    lines = np.array([_line(tokens, row) for row in resampled])
    shares = [_kept_per_decade(tokens, row) for row in (means, *resampled)]
    return {
        "per_decade": round(slope, 4),
        "per_decade_interval": _interval(lines[:, 0]),
        "crossing_tokens": None if math.isinf(crossing) else float(f"{crossing:.3g}"),
        "crossing_interval": [None if math.isinf(end) else float(f"{end:.3g}") for end in _ends(lines[:, 1])],
        "kept_per_decade": round(shares[0], 4),
        "kept_per_decade_interval": _interval(np.array(shares[1:])),
    }


def _line(tokens: NDArray[np.float64], leads: Losses) -> tuple[float, float]:
    """Return the slope of leads over decades of tokens, and where they are zero; infinity if the line does not fall."""
    slope, offset = np.polyfit(np.log10(tokens), leads, 1)
    if not slope < 0:
        return float(slope), math.inf
    exponent = -offset / slope
    return float(slope), math.inf if exponent > 300 else float(10**exponent)  # noqa: PLR2004 - the largest float's


def _kept_per_decade(tokens: NDArray[np.float64], leads: Losses) -> float:
    """Return the share of the lead that is left at ten times the tokens, from a line through its logarithm."""
    if not (leads > 0).all():
        return math.nan
    return float(10 ** np.polyfit(np.log10(tokens), np.log10(leads), 1)[0])


def _ends(values: Losses) -> list[float]:
    return [float(end) for end in np.quantile(values, [0.025, 0.975], method="inverted_cdf")]


def _interval(values: Losses) -> list[float]:
    return [round(end, 4) for end in _ends(values)]


def equal_flops_lead(means: Result, flops: Result, arm: str) -> list[float | None]:
    """Return the lead of an arm over `random` at the FLOPs of each of its budgets; None where `random` has no such."""
    known = [pair for pair in zip(flops["random"], means["random"], strict=True) if None not in pair]
    if len(known) < 2:  # noqa: PLR2004 - a line
        return [None] * len(means[arm])
    spent, losses = np.log10([flops for flops, _ in known]), [loss for _, loss in known]
    return [
        None
        if cost is None or not spent[0] <= math.log10(cost) <= spent[-1]
        else round(float(np.interp(math.log10(cost), spent, losses)) - own, 4)
        for cost, own in zip(flops[arm], means[arm], strict=True)
    ]


def main() -> None:
    """Run what is missing, and print a JSON line after every point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=BINS, default="quarter")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--most", type=int, default=BUDGETS[-1], help="tokens of the largest budget")
    parser.add_argument("--rate", nargs="*", default=[], help="peak rates of arms, such as random=0.003")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    rates = RATES | {arm: float(rate) for arm, rate in (each.split("=") for each in arguments.rate)}
    crossover = Crossover(arguments.cache_dir, arguments.size, rates)
    budgets = [tokens for tokens in BUDGETS if tokens <= arguments.most]
    shared = {
        "size": arguments.size,
        "shape": crossover.cut.winner.description,
        "cut": str(crossover.cut.checkpoint.folder),
        "num_parameters": num_parameters(crossover.architecture),
        "learning_rates": rates,
        "parent_charged_tokens": float(f"{crossover.parent_charged_tokens:.3g}"),
    }
    points: dict[Run, Point] = {}
    for run in [Run(arm, tokens, seed) for tokens in budgets for seed in arguments.seeds for arm in arguments.arms]:
        points[run] = crossover.point(run)
        sys.stderr.write(f"{run}: {points[run].losses.mean():.4f} nats, {points[run].folder}\n")
        sys.stdout.write(json.dumps(summary(points, budgets) | shared) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
