"""Which differences between starts and between losses survive training: students of SmolLM2-135M.

All students of a size have one shape, so that only what they begin with and what they minimise differs:

* `random`: the family's own initialisation; `prefix`: the first of everything and rebuilt rotary embeddings, as the
  paper cuts; `ordered`: the best of everything; `compensated`: corrected as exports are; all by cross-entropy;
* `full`, `topk_renorm` (the paper's), `sampled`: the compensated start under the teacher, 0.2 CE + 0.8 KL.

One start has a shape of its own: `searched` is the refitted winner of a short search among layers that may differ.
Under the teacher (`searched_sampled`) it is trained on half of the tokens, and costs less than `full` with its search.

They read the same 0.2M tokens of Wikipedia once, in an order that the seed decides, as it does random weights. The peak
learning rate of a start comes from a sweep at an eighth of the tokens, measured on text of its own (`choice`): three
values, and more while the best is an outermost one; a distilled student takes its start's. What a teacher says in
few entries is written down once for all seeds. Random weights are also trained once with five times the tokens, of
which a fifth is read twice; they come from all articles, those of the other runs from the first ones of the file.
Losses are nats per token of 96 validation sequences that nothing was chosen on.

Usage: python benchmarks/study.py [--seeds 0 1 2] [--tokens 200704] [--arms ...]. A run that is finished is kept in the
cache folder and not repeated, a killed one continues from its checkpoint: about 6 GB in all, and five to six hours on a
core that multiplies bfloat16.

Last line: a JSON object with `seeds`, `nats`, `standard_errors`, `differences` (from the compensated start, in pairs of
seed and sequence, with standard errors), `half_nats`, `learning_rates`, `tflop` (of an arm: the ranking of components,
the search, the cut, the teacher's answers and the training), and `tokens_to_match_ratio`: how many times the tokens of
an arm the longest run from random weights took to the lowest loss on the way that both come down to.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuts import HALF, sized
from numpy.typing import NDArray
from quickstart import CACHE_DIR, LENGTH, PAPER_ORDER, WIKIPEDIA, open_quickstart, refitting, spent
from search import SCHEDULE, UNTRAINED, UNTRAINED_SPACE

from budwood import (
    BinSettings,
    Compensation,
    CorpusSettings,
    DistillationSettings,
    Schedule,
    Selection,
    SpaceSettings,
    Subnet,
)
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.models.device import Compute
from budwood.reporting.ledger import tokens_to_match
from budwood.study.evaluation import ScoreProbe, ScoreRun
from budwood.study.text import PackText, Windows
from budwood.study.training import Cached, CacheTeacher, Start, TrainArm, Trained
from budwood.training.settings import ArmSettings, Engine

STARTS = ("random", "compensated", "ordered", "prefix", "searched")
SEARCHED = "searched_sampled"
LOSSES: dict[str, DistillationSettings] = {
    "full": DistillationSettings(),
    "topk_renorm": DistillationSettings(loss="topk_renorm", teacher="cached"),
    "sampled": DistillationSettings(loss="sampled", teacher="cached"),
}
ARMS = (*STARTS[:-1], *LOSSES, SEARCHED)
SHAPES = {
    "quarter": ((480, 3, 16, 224, 20), ParameterBin(31_947_314, 35_310_190)),
    "half": ((544, 3, 64, 900, 18), HALF),
}
"""Hidden size, groups, head dimension, neurons, layers, and the bin; near the best that short searches found."""
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of a sweep; it continues by factors of about three."""
NATIVE = SpaceSettings(layerwise=False, **PAPER_ORDER.model_dump())
SPACES = {
    "prefix": NATIVE,
    "ordered": SpaceSettings(layerwise=False),
    "compensated": SpaceSettings(layerwise=False, compensation=Compensation()),
}
NUM_REFIT = {"quarter": 80, "half": 160}
"""Sequences to which a searched cut is refitted."""
EXACT = Compute(torch.device("cpu"), "float32")
BATCH, SWEEP_SEED, SWEEP_SHARE, LONG = 4, 1000, 8, 5
NUM_CURVE, NUM_HELDOUT, NUM_CHOICE = 16, 96, 32

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One student."""

    size: str
    arm: str
    seed: int
    tokens: int
    rate: float

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.size}-{self.arm}-{self.seed}-{self.tokens}-{self.rate:g}"

    @property
    def start(self) -> str:
        """What the student begins with."""
        return start_of(self.arm)

    @property
    def distillation(self) -> DistillationSettings | None:
        """What it learns of the teacher."""
        return LOSSES.get(self.arm.removeprefix("searched_"))


def start_of(arm: str) -> str:
    """Return what students of an arm begin with."""
    return next((start for start in STARTS if arm.startswith(start)), "compensated")


class Study:
    """The teacher, the text, and the stages of all runs."""

    def __init__(self, cache_dir: Path, tokens: int) -> None:
        """Open the text."""
        self.quickstart, self.tokens = open_quickstart(cache_dir), tokens
        self.workspace, self.teacher = self.quickstart.workspace, self.quickstart.teacher

    def corpus(self, tokens: int) -> PackedCorpus:
        """Return the text of runs that read so many tokens of it at most."""
        # A window more than is read: the last token of one is the first of the next.
        limits = {"train": tokens + LENGTH, "validation": 10**9}
        text = CorpusSettings(sources={"wikipedia": WIKIPEDIA.model_copy(update={"max_tokens": limits})})
        return self.workspace.finish(PackText.of(self.teacher, text, Path.cwd()))

    def result(self, run: Run, split: str = "validation") -> Result:
        """Return a run's losses, after training it where it is not finished."""
        trained = self.workspace.finish(self._training(run))
        losses = self._losses(run, trained, split)
        sys.stderr.write(f"{run.name}: {np.mean(losses):.3f} nats, {trained.record.seconds:.0f} s\n")
        curve = trained.curve.dropna(subset=["heldout_loss"])
        answers = self._cached(run)
        costs = [*trained.record.costs, *(answers.costs if answers else [])]
        tflop = 1e-12 * (self._fixed(run) + sum(cost.flops for cost in costs))
        return {"losses": losses, "curve": curve[["tokens", "heldout_loss"]].to_numpy().tolist(), "tflop": tflop}

    def _fixed(self, run: Run) -> float:
        """Return the FLOPs of a student before its training."""
        if run.start in {"random", "prefix"}:
            return 0.0
        return spent(self.quickstart, self.start(run.size, run.start))["flops"]

    def _losses(self, run: Run, trained: Trained, split: str) -> list[float]:
        shared = {"model": trained.model, "record": trained.record, "compute": EXACT}
        text = self.quickstart.tokens
        if split == "choice":
            windows = Windows(tokens=text, split=split, length=LENGTH, count=NUM_CHOICE)
            return list(self.workspace.finish(ScoreProbe(choice=windows, batch_size=BATCH, **shared)).losses)
        stage = ScoreRun(run_name=run.name, tokens=text, length=LENGTH, validation=NUM_HELDOUT, **shared)
        return list(self.workspace.finish(stage).score.losses["wikipedia"])

    def _training(self, run: Run) -> TrainArm:
        corpus = self.corpus(self.tokens if run.distillation is None else run.tokens)
        answers = self._cached(run)
        start = self.start(run.size, "ordered" if run.start == "random" else run.start).checkpoint
        return TrainArm(
            arm=run.arm,
            start=Start(initialisation="random" if run.start == "random" else "checkpoint", checkpoint=start),
            settings=ArmSettings(learning_rate=run.rate, distillation=run.distillation),
            schedule=self._schedule(run.tokens, run.seed),
            # Longer runs read all the text there is before they repeat any.
            tokens=corpus if run.tokens <= self.tokens else self.quickstart.tokens,
            heldout=NUM_CURVE,
            teacher=self.teacher,
            cache=answers.cache if answers else None,
            compute=self.quickstart.materials.compute,
            engine=Engine(),
        )

    def _schedule(self, tokens: int, seed: int) -> Schedule:
        return Schedule(
            tokens=tokens,
            sequence_length=LENGTH,
            global_batch=BATCH,
            micro_batch=BATCH,
            shape="warmup_stable_decay",
            warmup_steps=8,
            num_evaluations=max(1, 4 * tokens // self.tokens),
            checkpoint_steps=50,
            seed=seed,
        )

    def start(self, size: str, start: str) -> Subnet:
        """Return what students begin with."""
        shape, parameter_bin = SHAPES[size]
        if start == "searched":
            bins = {size: BinSettings(low=parameter_bin.low, high=parameter_bin.high)}
            study, settings = refitting(self.quickstart, NUM_REFIT[size]), UNTRAINED.model_copy(update={"seed": 0})
            return study.search(bins, space=UNTRAINED_SPACE, settings=settings, schedule=SCHEDULE)[size]
        architecture = sized(self.teacher.architecture, shape)
        assert num_parameters(architecture) in parameter_bin, f"{shape} lies outside {parameter_bin}"
        return self.quickstart.extract(Selection.prefix(architecture), SPACES[start])

    def _cached(self, run: Run) -> Cached | None:
        """Return what the teacher says of all text of a run; those of other seeds read it in another order."""
        settings = run.distillation
        if settings is None or settings.teacher != "cached":
            return None
        stage = CacheTeacher(
            teacher=self.teacher,
            tokens=self.corpus(run.tokens),
            settings=settings,
            schedule=self._schedule(run.tokens, 0),
            compute=self.quickstart.materials.compute,
            batch_size=BATCH,
        )
        return self.workspace.finish(stage)

    def rate(self, start: str) -> float:
        """Return the best learning rate of a start: one with a worse value on either side."""
        nats: dict[float, float] = {}
        rates = list(RATES)
        while rates:
            for rate in rates:
                run = Run("quarter", start, SWEEP_SEED, self.tokens // SWEEP_SHARE, rate)
                nats[rate] = float(np.mean(self.result(run, "choice")["losses"]))
            best = min(nats, key=lambda rate: nats[rate])
            rates = [_next(best, -1)] * (best == min(nats)) + [_next(best, 1)] * (best == max(nats))
        return best


def _next(rate: float, direction: int) -> float:
    """Return a neighbour in 1, 3, 10, 30, ..."""
    steps = round(2 * np.log10(rate)) + direction
    return float(f"{10 ** (steps / 2):.0e}")


def plan(study: Study, rates: dict[str, float], seeds: list[int]) -> Iterator[Run]:
    """Yield all runs, those first that make the smallest whole table."""
    arms = (*STARTS[:-1], *LOSSES)

    def run(arm: str, seed: int, size: str = "quarter", times: float = 1) -> Run:
        return Run(size, arm, seed, round(times * study.tokens), rates.get(start_of(arm), np.nan))

    yield from (run(arm, seed) for seed in seeds[:2] for arm in arms)
    yield run("random", seeds[0], times=LONG)
    yield from (run(arm, seed) for seed in seeds[2:] for arm in arms)
    yield from (run(arm, seeds[0], "half") for arm in ("compensated", "random", "ordered", "full", "prefix"))
    yield from (run(SEARCHED, seed, times=0.5) for seed in seeds)
    yield run(SEARCHED, seeds[0], "half", times=0.5)


def summary(study: Study, results: dict[Run, Result], rates: dict[str, float]) -> Result:
    """Return the figures of all runs that are finished."""
    by_arm: dict[str, dict[int, Result]] = {}
    for run, result in results.items():
        if run.size == "quarter" and run.tokens <= study.tokens:
            by_arm.setdefault(run.arm, {})[run.seed] = result
    means = {arm: crossed_mean(np.array([result["losses"] for result in of.values()])) for arm, of in by_arm.items()}
    base, differences = by_arm.get("compensated", {}), {}
    for arm, of in by_arm.items():
        seeds = sorted(set(of) & set(base))
        if arm != "compensated" and seeds:
            pairs = np.array([of[seed]["losses"] for seed in seeds]) - [base[seed]["losses"] for seed in seeds]
            differences[arm] = crossed_mean(pairs)
    longest = [result for run, result in results.items() if run.tokens > study.tokens]
    return {
        "seeds": {arm: len(of) for arm, of in by_arm.items()},
        "nats": {arm: round(mean, 3) for arm, (mean, _) in means.items()},
        "standard_errors": {arm: round(error, 3) for arm, (_, error) in means.items()},
        "differences": {arm: [round(part, 3) for part in parts] for arm, parts in differences.items()},
        "half_nats": {
            run.arm: round(crossed_mean(np.array([r["losses"]]))[0], 3)
            for run, r in results.items()
            if run.size == "half"
        },
        "learning_rates": rates,
        "tflop": {
            f"{run.size} {run.arm}": float(f"{result['tflop']:.4g}")
            for run, result in results.items()
            if run.tokens <= study.tokens
        },
        "tokens_to_match_ratio": {
            arm: _ratio(longest[0], list(of.values())) for arm, of in by_arm.items() if longest and arm != "random"
        },
    }


def crossed_mean(losses: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of [S, N] seeds and sequences, and its standard error from both, as crossed random effects.

    The variance is that between means of seeds over S and that between means of sequences over N; what is left over is
    in both, so the error is rather too large. With one seed it has no part that comes from seeds.
    """
    parts = [losses.mean(axis) for axis in (0, 1)]
    variance = sum(float(part.var(ddof=1)) / len(part) for part in parts if len(part) > 1)
    return float(losses.mean()), variance**0.5


def _ratio(longest: Result, runs: list[Result]) -> float | None:
    """Return the tokens of the longest run over those of others, at the lowest loss that it and their mean reach.

    None where the others begin below all that the longest run reaches.
    """
    curves = [np.array(longest["curve"]).T, np.mean([run["curve"] for run in runs], 0).T]
    level = np.array([max(losses.min() for _, losses in curves)])
    needed = [float(tokens_to_match(tokens, losses[None], level)[0]) for tokens, losses in curves]
    return round(needed[0] / needed[1], 1) if needed[1] else None


def main() -> None:
    """Run what is missing and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=200_704)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    study = Study(arguments.cache_dir, arguments.tokens)
    rates = {start: study.rate(start) for start in dict.fromkeys(map(start_of, arguments.arms))}
    results: dict[Run, Result] = {}
    for run in (each for each in plan(study, rates, arguments.seeds) if each.arm in arguments.arms):
        results[run] = study.result(run)
        sys.stderr.write(json.dumps(summary(study, results, rates)) + "\n")
    sys.stdout.write(json.dumps(summary(study, results, rates)) + "\n")


if __name__ == "__main__":
    main()
