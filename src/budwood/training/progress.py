"""The speed of a run, and its remaining time."""

import time
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from budwood.models.device import Compute
from budwood.training.peaks import peak_flops


@dataclass(slots=True)
class Meter:
    """Measures the time of training steps, without evaluations and checkpoints."""

    tokens_per_step: int
    flops_per_token: float
    """Of a step, with only the attention that the causal mask leaves."""
    peak: float | None
    """FLOPs per second of all devices together."""
    seconds: float = 0.0
    steps: int = 0
    _row: tuple[float, int] = (0.0, 0)
    _begun: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, compute: Compute, tokens_per_step: int, flops_per_token: float, num_devices: int) -> "Meter":
        """Return a meter of a run on some devices of a kind."""
        peak = peak_flops(compute.describe()) if compute.precision == "bfloat16" else None
        return cls(tokens_per_step, flops_per_token, peak and peak * num_devices)

    def begin(self) -> None:
        """Begin a step."""
        self._begun = time.perf_counter()

    def end(self) -> None:
        """End a step."""
        self.seconds += time.perf_counter() - self._begun
        self.steps += 1

    def row(self) -> dict[str, float]:
        """Return the rates of the steps since the last row."""
        rates, self._row = self.rates(*self._row), (self.seconds, self.steps)
        return rates

    def rates(self, seconds: float = 0.0, steps: int = 0) -> dict[str, float]:
        """Return `tokens_per_second` and, where the peak is known, `mfu` (model FLOPs utilisation).

        Args:
            seconds: spent on the first steps, which do not count.
            steps: how many these are.
        """
        seconds, steps = self.seconds - seconds, self.steps - steps
        if not steps:
            return {}
        speed = steps * self.tokens_per_step / seconds
        mfu = {} if self.peak is None else {"mfu": speed * self.flops_per_token / self.peak}
        return {"tokens_per_second": speed} | mfu


def training_bar(arm: str, done: int, num_steps: int, *, hidden: bool) -> "tqdm[Any]":
    """Return a bar over the optimiser steps of a run, with the remaining time."""
    return tqdm(total=num_steps, initial=done, desc=arm, unit="step", dynamic_ncols=True, mininterval=1, disable=hidden)
