"""How fast a device and the engine on it are, by which limits of time are counted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from budwood.arch.limits import MemoryInUse, TimeTaken
from budwood.arch.population import Population
from budwood.arch.spec import Architecture, LayerSpec
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.settings import EfficiencySettings
from budwood.models.checkpoint import Checkpoint, random_model
from budwood.models.device import choose_compute
from budwood.models.settings import DeviceName, Precision
from budwood.study.arguments import as_checkpoint
from budwood.study.settings import ServingSpeed

_DEPTHS = (6, 2)
"""Timed models have a teacher's layers divided by these. Models of few layers stay in a processor's caches."""
_SETTINGS = EfficiencySettings()
_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a model took to read tokens, the last of which gave logits."""

    architecture: Architecture
    seconds: float
    num_tokens: int
    """Of every sequence, read at once: one while it decodes, the prompt before."""
    context: int
    """Tokens of every sequence in the cache before."""
    batch_size: int = 1
    weight_bits: float = 16

    def predicted(self, speed: ServingSpeed) -> float:
        """Return the seconds that a speed predicts."""
        return float(self.taken(speed)(Population.of([self.architecture]))[0])

    def taken(self, speed: ServingSpeed) -> TimeTaken:
        """Return how a speed predicts them."""
        memory = MemoryInUse(self.architecture, self.weight_bits, self.batch_size * self.context)
        return TimeTaken(memory=memory, num_tokens=self.num_tokens, batch_size=self.batch_size, **dict(speed))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSpeed:
    """A speed, and how well it explains the times that it was fitted to."""

    speed: ServingSpeed
    timings: tuple[Timing, ...]

    @property
    def largest_error(self) -> float:
        """The largest difference of a predicted time from the measured one, as a share of the latter."""
        return max(abs(timing.predicted(self.speed) / timing.seconds - 1) for timing in self.timings)


def fit_serving_speed(timings: Sequence[Timing]) -> FittedSpeed:
    """Fit a speed to times, so that the squares of relative errors are least; no part takes less than nothing.

    Args:
        timings: of models that differ in depth and in size, measured in one engine on one device.

    Raises:
        ValueError: there are fewer than three of them, or a time is not positive.
    """
    if len(timings) < len(ServingSpeed.model_fields):
        raise ValueError(f"timings must be of at least {len(ServingSpeed.model_fields)} models, got {len(timings)}")
    if not all(timing.seconds > 0 for timing in timings):
        raise ValueError("every timing needs seconds > 0")
    unit = ServingSpeed(layer_seconds=1, bytes_per_second=1, flops_per_second=1)
    parts = [timing.taken(unit).parts(Population.of([timing.architecture]))[0] for timing in timings]
    shares = np.array(parts) / [[timing.seconds] for timing in timings]
    scales = shares.max(0)
    layers, byte, flop = nnls(shares / scales, np.ones(len(timings)))[0] / scales
    with np.errstate(divide="ignore"):
        rates = np.divide(1.0, [byte, flop])
    speed = ServingSpeed(
        layer_seconds=float(layers), bytes_per_second=float(rates[0]), flops_per_second=float(rates[1])
    )
    return FittedSpeed(speed=speed, timings=tuple(timings))


def measure_serving_speed(
    teacher: Checkpoint | Path | str,
    architectures: Sequence[Architecture] = (),
    *,
    settings: EfficiencySettings = _SETTINGS,
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> FittedSpeed:
    """Time models of a teacher's family with random weights, in transformers on the device at hand, and fit a speed.

    Args:
        teacher: a checkpoint, or its folder.
        architectures: that are timed; where none are given, eight with up to half of the teacher's layers, whole and
            with half of their width, heads and neurons. All are in memory together.
        settings: how prompts are read and tokens generated.
        device: where.
        precision: of weights and arithmetic.
    """
    whole, compute = as_checkpoint("teacher", teacher), choose_compute(device, precision)
    subjects = {
        str(place): Subject(compute.place(random_model(whole.config, each, seed=place)), each)
        for place, each in enumerate(architectures or _timed(whole.architecture))
    }
    measured, timings = measure_efficiency(subjects, settings, compute), []
    for name, subject in subjects.items():
        times = measured.models[name]
        # What else the machine does only adds to a time.
        prefill, decode = min(times.prefill_seconds), min(times.decode_seconds)
        read = Timing(
            architecture=subject.architecture,
            seconds=prefill,
            num_tokens=settings.prompt_tokens,
            context=0,
            batch_size=settings.batch_size,
            weight_bits=_BITS * compute.dtype.itemsize,
        )
        cached = settings.prompt_tokens + settings.new_tokens // 2
        timings += [read, replace(read, seconds=decode, num_tokens=1, context=cached)]
    return fit_serving_speed(timings)


def _timed(teacher: Architecture) -> list[Architecture]:
    """Return models that differ in depth, width and neurons; narrow ones have half of the heads."""
    spec, models = teacher.layers[0], []
    for depth, width, neurons in product(_DEPTHS, (1, 2), (1, 2)):
        layer = LayerSpec.of(
            max(1, spec.num_key_value_heads // width),
            spec.heads_per_group,
            spec.head_dim,
            spec.intermediate_size // neurons,
        )
        layers = (layer,) * max(1, teacher.num_hidden_layers // depth)
        models.append(replace(teacher, hidden_size=teacher.hidden_size // width, layers=layers))
    return list(dict.fromkeys(models))
