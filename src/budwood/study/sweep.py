"""Short runs that choose a peak learning rate."""

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from budwood.arch.spec import Architecture
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.records.files import append_json_lines, read_json_lines
from budwood.records.training import SweptRates
from budwood.study.costs import forward_of, sweep_cost
from budwood.study.stage import NOT_DECIDING, Stage, Work, no_tracking
from budwood.study.text import Windows
from budwood.training.job import TrainingJob
from budwood.training.launch import run_job
from budwood.training.run import MODEL
from budwood.training.settings import RateSweep, Schedule
from budwood.training.teacher import teacher_beside

MAX_BEYOND = 3
"""Rates that are tried beyond those that are named."""
TRIED = "tried.jsonl"

logger = logging.getLogger(__name__)


def next_rate(named: Sequence[float], found: Mapping[float, float]) -> float | None:
    """Return the rate to try next: one that is named, then one beyond an outermost that is best; None at the end.

    Args:
        named: in ascending order.
        found: losses by rate; infinite where training diverged.
    """
    untried = [rate for rate in named if rate not in found]
    if untried:
        return untried[0]
    if len(found) == len(named) + MAX_BEYOND:
        return None
    tried, best = sorted(found), min(found, key=lambda rate: (found[rate], rate))
    inner = {tried[0]: tried[1], tried[-1]: tried[-2]}.get(best)
    beyond = None if inner is None else float(f"{best * best / inner:.2g}")
    return None if beyond in found else beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepText:
    """What short runs are trained and compared on."""

    schedule: Schedule
    choice: Windows


@dataclass(frozen=True, kw_only=True)
class SweepRates(Stage[SweptRates]):
    """Train briefly at several peak rates and compare the losses on the text of the choice."""

    name: ClassVar[str] = "rate_sweep"

    run_facts: str
    """What decides the run but its length and its seed, in JSON form."""
    settings: RateSweep
    text: SweepText
    start: Checkpoint | None
    """Gives the weights; None where they are random."""
    student: Architecture
    compute: Compute
    job: TrainingJob = field(metadata=NOT_DECIDING)
    """Of the run."""

    def run(self, work: Work) -> SweptRates:
        """Try one rate after the other; a killed sweep continues with the first that has not ended.

        Raises:
            ValueError: training diverges at all of them.
        """
        file = work.folder / TRIED
        tried = read_json_lines(file)
        found = {row["rate"]: math.inf if row["loss"] is None else row["loss"] for row in tried}
        while (rate := next_rate(self.settings.rates, found)) is not None:
            started = time.perf_counter()
            loss = self._loss(rate, work)
            logger.info("arm %s at a peak of %g: %s", self.job.arm, rate, "diverges" if loss is None else f"{loss:.4f}")
            tried.append({"rate": rate, "loss": loss, "seconds": time.perf_counter() - started})
            append_json_lines(file, tried[-1:])
            found[rate] = math.inf if loss is None else loss
        started = time.perf_counter()
        untrained = self._measured(self.start) if self.start else math.log(self.student.vocab_size)
        spent = time.perf_counter() - started + sum(row["seconds"] for row in tried)
        swept = self._record(found, untrained, spent)
        logger.info("arm %s is trained at a peak of %g", self.job.arm, swept.best)
        if swept.doubts:
            logger.warning("arm %s: of the learning rates, %s", self.job.arm, swept.doubts)
        return swept

    def _loss(self, rate: float, work: Work) -> float | None:
        """Return the loss after a short run at a rate; None where it diverges."""
        brief = self.job.brief(self.text.schedule, work.folder / f"run-{rate:g}")
        job = brief.model_copy(update={"learning_rate": rate})
        try:
            run_job(job, no_tracking, {})
        except FloatingPointError:
            loss = None
        else:
            loss = self._measured(Checkpoint.open(job.output_folder / MODEL))
        shutil.rmtree(job.output_folder)
        return loss if loss is not None and math.isfinite(loss) else None

    def _measured(self, model: Checkpoint) -> float:
        loaded = self.compute.place(model.load_model(torch.float32))
        return float(sequence_losses(loaded, self.text.choice.read()).mean())

    def _record(self, found: Mapping[float, float], untrained: float, seconds: float) -> SweptRates:
        rates = tuple(sorted(found))
        cost = sweep_cost(
            forward_of(self.student),
            teacher_beside(self.job),
            self.text.schedule,
            self.text.choice.extent,
            num_rates=len(rates),
            from_weights=self.start is not None,
        )
        return SweptRates(
            rates=rates,
            losses=tuple(found[rate] if math.isfinite(found[rate]) else None for rate in rates),
            untrained=untrained,
            cost=cost.model_copy(update={"arm": self.job.arm, "seconds": seconds}),
        )
