"""Which differences between starts and between losses survive training: students of SmolLM2-135M.

All students of a size have one shape, so that only what they begin with and what they minimise differs:

* `random`: the family's own initialisation; `prefix`: the first of everything and rebuilt rotary embeddings, as the
  paper cuts; `ordered`: the best of everything; `compensated`: corrected as exports are; all by cross-entropy;
* `full`, `topk_renorm` (the paper's), `sampled`: the compensated start under the teacher, 0.2 CE + 0.8 KL.

They read the same 0.2M tokens of Wikipedia once, in an order that the seed decides, as it does random weights. The peak
learning rate of a start comes from a sweep at an eighth of the tokens, measured on text of its own (`choice`): three
values, and more while the best is an outermost one; a distilled student takes its start's. What a teacher says in
few entries is written down once for all seeds. Random weights are also trained once with five times the tokens, of
which a fifth is read twice; they come from all articles, those of the other runs from the first ones of the file.
Losses are nats per token of 96 validation sequences that nothing was chosen on.

Usage: python benchmarks/study.py [--seeds 0 1 2] [--tokens 200704]. A run that is finished is kept in the cache folder
and not repeated, a killed one continues from its checkpoint. Five to six hours on a core that multiplies bfloat16.

Last line: a JSON object with `seeds`, `nats`, `standard_errors`, `differences` (from the compensated start, in pairs of
seed and sequence, with standard errors), `half_nats`, `learning_rates`, and `tokens_to_match_ratio`: how many times the
tokens of an arm the longest run from random weights took to the lowest loss on the way that both come down to.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuts import HALF, sized
from numpy.typing import NDArray
from quickstart import CACHE_DIR, LENGTH, ORDERED, WIKIPEDIA, Quickstart, open_quickstart

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import load_model, load_tokenizer
from budwood.models.device import Compute, choose_compute
from budwood.models.export import write_checkpoint
from budwood.models.losses import sequence_losses
from budwood.records.files import write_atomically
from budwood.reporting.ledger import tokens_to_match
from budwood.subnet.compensate import cut_out
from budwood.subnet.extract import own_weights
from budwood.subnet.settings import Compensation, Ordering
from budwood.training.cache import INDEX, write_cache
from budwood.training.curve import read_curve
from budwood.training.job import TrainingJob
from budwood.training.run import MODEL, train
from budwood.training.settings import DistillationSettings, Schedule
from budwood.training.teacher import cache_facts, open_live_teacher

STARTS = ("random", "compensated", "ordered", "prefix")
LOSSES: dict[str, DistillationSettings] = {
    "full": DistillationSettings(),
    "topk_renorm": DistillationSettings(loss="topk_renorm", teacher="cached"),
    "sampled": DistillationSettings(loss="sampled", teacher="cached"),
}
SHAPES = {
    "quarter": ((480, 3, 16, 224, 20), ParameterBin(31_947_314, 35_310_190)),
    "half": ((544, 3, 64, 900, 18), HALF),
}
"""Hidden size, groups, head dimension, neurons, layers, and the bin; near the best that short searches found."""
RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of a sweep; it goes on by factors of about three."""
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
        """Name of the run's files."""
        return f"{self.size}-{self.arm}-{self.seed}-{self.tokens}-{self.rate:g}"

    @property
    def start(self) -> str:
        """What the student begins with."""
        return self.arm if self.arm in STARTS else "compensated"


class Study:
    """The teacher, the text, and where results are kept."""

    def __init__(self, cache_dir: Path, tokens: int) -> None:
        """Open the text."""
        self.quickstart: Quickstart = open_quickstart(cache_dir)
        self.folder, self.tokens = cache_dir / "study", tokens
        # A window more than is read: the last token of one is the first of the next.
        limits = {"train": tokens + LENGTH, "validation": 10**9}
        self.corpus: PackedCorpus = tokenize_sources(
            CorpusSettings(
                sources={"wikipedia": WIKIPEDIA.model_copy(update={"max_tokens": limits})},
                seed=self.quickstart.tokens.seed,
            ),
            load_tokenizer(self.quickstart.teacher),
            directory=self.folder / f"tokens-{tokens}",
            root=cache_dir,
        )

    @cached_property
    def text(self) -> dict[str, torch.Tensor]:
        """[N, T + 1] token ids on which students are measured, and learning rates chosen."""
        counts = {"validation": NUM_HELDOUT, "choice": NUM_CHOICE}
        return {split: self.quickstart.windows(split, count) for split, count in counts.items()}

    def result(self, run: Run, split: str = "validation") -> Result:
        """Return a run's losses, after training it where it is not finished."""
        file = self.folder / f"{run.name}.json"
        if not file.is_file():
            write_atomically(file, json.dumps(self._train(run, split)))
            shutil.rmtree(self.folder / run.name)
        result: Result = json.loads(file.read_text())
        sys.stderr.write(f"{run.name}: {np.mean(result['losses']):.3f} nats, {result['seconds']:.0f} s\n")
        return result

    def _train(self, run: Run, split: str) -> Result:
        settings = LOSSES.get(run.arm)
        cached = settings is not None and settings.teacher == "cached"
        # Longer runs read all the text there is before they repeat any.
        corpus = self.corpus if run.tokens <= self.tokens else self.quickstart.tokens
        job = TrainingJob(
            arm=run.name,
            model_folder=self.cut(run.size, "ordered" if run.start == "random" else run.start),
            initialisation="random" if run.start == "random" else "checkpoint",
            teacher_folder=self.quickstart.teacher,
            corpus_folder=corpus.directory,
            output_folder=self.folder / run.name,
            learning_rate=run.rate,
            schedule=self._schedule(run),
            distillation=settings,
            cache_folder=self.cache(run.arm) if cached else None,
            heldout_windows=NUM_CURVE,
        )
        record = train(job)
        student = load_model(job.output_folder / MODEL, torch.float32)
        curve = [
            (row["step"] * record["tokens_per_step"], row["heldout_loss"])
            for row in read_curve(job.output_folder)
            if "heldout_loss" in row
        ]
        return record | {"losses": sequence_losses(student, self.text[split]).tolist(), "curve": curve}

    def _schedule(self, run: Run) -> Schedule:
        return Schedule(
            tokens=run.tokens,
            sequence_length=LENGTH,
            global_batch=BATCH,
            micro_batch=BATCH,
            shape="warmup_stable_decay",
            warmup_steps=8,
            num_evaluations=max(1, 4 * run.tokens // self.tokens),
            checkpoint_steps=50,
            seed=run.seed,
        )

    def cut(self, size: str, start: str) -> Path:
        """Return the folder of a start, cut where it is not there yet."""
        folder = self.folder / "cuts" / f"{size}-{start}"
        if (folder / "config.json").is_file():
            return folder
        ordering = Ordering(ordering="native", rope="rebuild") if start == "prefix" else ORDERED
        teacher = self.quickstart.ordered(ordering).materialise(Compute(torch.device("cpu"), "float32"))
        shape, parameter_bin = SHAPES[size]
        architecture = sized(teacher.architecture, shape)
        assert num_parameters(architecture) in parameter_bin, f"{shape} lies outside {parameter_bin}"
        settings = Compensation() if start == "compensated" else None
        child = cut_out(teacher, Selection.prefix(architecture), self.quickstart.calibration, settings)
        return write_checkpoint(own_weights(child), self.quickstart.teacher, folder)

    def cache(self, arm: str) -> Path:
        """Return what the teacher says of all training text, asked where it is not written yet."""
        folder, settings = self.folder / f"{arm}-{self.tokens}", LOSSES[arm]
        if not (folder / INDEX).is_file():
            facts = cache_facts(self.quickstart.teacher, self.corpus, LENGTH, settings)
            teacher = open_live_teacher(self.quickstart.teacher, settings, choose_compute())
            write_cache(folder, teacher.entries, self.corpus, self.corpus.window_starts("train", LENGTH), facts, BATCH)
        return folder

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
    arms = (*STARTS, *LOSSES)

    def run(arm: str, seed: int, size: str = "quarter", times: int = 1) -> Run:
        start = arm if arm in STARTS else "compensated"
        return Run(size, arm, seed, times * study.tokens, rates[start])

    yield from (run(arm, seed) for seed in seeds[:2] for arm in arms)
    yield run("random", seeds[0], times=LONG)
    yield from (run(arm, seed) for seed in seeds[2:] for arm in arms)
    yield from (run(arm, seeds[0], "half") for arm in ("compensated", "random", "ordered", "full", "prefix"))


def summary(study: Study, results: dict[Run, Result], rates: dict[str, float]) -> Result:
    """Return the figures of all runs that are finished."""
    by_arm: dict[str, dict[int, Result]] = {}
    for run, result in results.items():
        if run.size == "quarter" and run.tokens == study.tokens:
            by_arm.setdefault(run.arm, {})[run.seed] = result
    means = {arm: _mean(np.array([result["losses"] for result in of.values()])) for arm, of in by_arm.items()}
    base, differences = by_arm.get("compensated", {}), {}
    for arm, of in by_arm.items():
        seeds = sorted(set(of) & set(base))
        if arm != "compensated" and seeds:
            pairs = np.array([of[seed]["losses"] for seed in seeds]) - [base[seed]["losses"] for seed in seeds]
            differences[arm] = _mean(pairs)
    longest = [result for run, result in results.items() if run.tokens > study.tokens]
    return {
        "seeds": {arm: len(of) for arm, of in by_arm.items()},
        "nats": {arm: round(mean, 3) for arm, (mean, _) in means.items()},
        "standard_errors": {arm: round(error, 3) for arm, (_, error) in means.items()},
        "differences": {arm: [round(part, 3) for part in parts] for arm, parts in differences.items()},
        "half_nats": {
            run.arm: round(_mean(np.array([r["losses"]]))[0], 3) for run, r in results.items() if run.size == "half"
        },
        "learning_rates": rates,
        "tokens_to_match_ratio": {
            arm: _ratio(longest[0], list(of.values())) for arm, of in by_arm.items() if longest and arm != "random"
        },
    }


def _mean(losses: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of [S, N] seeds and sequences, and its standard error from both, as crossed random effects.

    The variance is that between means of seeds over S and that between means of sequences over N; what is left over is
    in both, so the error is rather too large. One seed tells nothing of seeds.
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
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    study = Study(arguments.cache_dir, arguments.tokens)
    rates = {start: study.rate(start) for start in STARTS}
    results: dict[Run, Result] = {}
    for run in plan(study, rates, arguments.seeds):
        results[run] = study.result(run)
        sys.stderr.write(json.dumps(summary(study, results, rates)) + "\n")
    sys.stdout.write(json.dumps(summary(study, results, rates)) + "\n")


if __name__ == "__main__":
    main()
