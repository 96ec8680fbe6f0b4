"""Settings of a whole study; imports no torch."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, model_validator

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.limits import MEMORY_IN_USE, PROMPT_TIME, TOKEN_TIME, Limit, MemoryInUse, TimeTaken
from budwood.arch.spec import Architecture
from budwood.corpus.split import FOREIGN
from budwood.models.settings import DeviceName, ModelSizes, Precision
from budwood.records.strict import HOW, Strict, naming
from budwood.training.settings import ArmName, Arms, Engine, Schedule


class BinSchedule(Strict):
    """What a bin changes of `schedule`. All else, such as the sequences that are read, is the same in all bins."""

    tokens: int | None = Field(default=None, gt=0)
    """Tokens predicted in a whole run."""
    micro_batch: Annotated[int | None, HOW] = Field(default=None, gt=0)
    """Sequences that fit through the model of one device at once."""
    peak_learning_rate: float | None = Field(default=None, gt=0)
    """Of every arm without one of its own."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Optimiser steps in which the learning rate rises."""


class ServingSpeed(Strict):
    """How fast a device and its engine are; `budwood.measure_serving_speed` measures it in transformers."""

    layer_seconds: float = Field(ge=0, allow_inf_nan=False)
    """What every layer takes on its own, whatever its sizes."""
    bytes_per_second: float = Field(gt=0)
    """Of weights, keys and values that are read; `.inf`: reading takes no time of its own."""
    flops_per_second: float = Field(gt=0)
    """Of products; `.inf`: they take no time of their own."""


class LimitSettings(Strict):
    """What a sub-network may take where it is used; a bin of limits alone has the members that use most of them."""

    context: int = Field(default=4096, gt=0)
    """Tokens of a sequence in the cache of keys and values; layers whose attention has a window count as if they kept
    all."""
    batch_size: int = Field(default=1, gt=0)
    """Sequences at a time."""
    weight_bits: float = Field(default=16, gt=0, le=32)
    """Of a parameter in memory, with the scales of its block: 4.5 of llama.cpp's Q4_0, 8.5 of Q8_0. Keys and values
    have 16."""
    max_memory: ByteSize | None = Field(default=None, gt=0)
    """Of weights, keys and values, such as `256MiB`."""
    max_token_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """In which all sequences get their next token, with `context` tokens in the cache; needs `speed`."""
    max_prompt_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """In which prompts of `prompt_tokens` are read; needs `speed`."""
    prompt_tokens: int = Field(default=512, gt=0)
    """Of every sequence's prompt."""
    speed: ServingSpeed | None = None
    """Of the device and the engine that will serve."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        times = (self.max_token_seconds, self.max_prompt_seconds)
        if self.max_memory is None and times == (None, None):
            raise ValueError("limits need max_memory, max_token_seconds or max_prompt_seconds")
        if self.speed is None and times != (None, None):
            raise ValueError("max_token_seconds and max_prompt_seconds need the speed of a device")
        return self

    def of(self, teacher: Architecture) -> tuple[Limit, ...]:
        """Return the limits of what is cut out of a teacher."""
        full = MemoryInUse(teacher, self.weight_bits, self.batch_size * self.context)
        limits = []
        if self.max_memory is not None:
            limits.append(Limit(MEMORY_IN_USE, float(self.max_memory), full, full.bytes_per_parameter))
        if self.max_token_seconds is not None:
            token = self._time(full, 1)
            limits.append(Limit(TOKEN_TIME, self.max_token_seconds, token, token.seconds_per_parameter))
        if self.max_prompt_seconds is not None:
            prompt = self._time(replace(full, tokens=0), self.prompt_tokens)
            limits.append(Limit(PROMPT_TIME, self.max_prompt_seconds, prompt, prompt.seconds_per_parameter))
        return tuple(limits)

    def _time(self, memory: MemoryInUse, num_tokens: int) -> TimeTaken:
        assert self.speed is not None, "a time is limited"
        return TimeTaken(memory=memory, num_tokens=num_tokens, batch_size=self.batch_size, **dict(self.speed))


_HALF = 0.5
OnFailure = Literal["stop", "warn"]


class BinSettings(Strict):
    """A bin of parameters, in one of three ways: a fraction of the teacher, a centre, or its bounds; or of limits."""

    fraction: float | None = Field(default=None, gt=0, le=1)
    """Centre as a share of the teacher's parameters."""
    center: int | None = Field(default=None, gt=0)
    """Centre as a number of parameters."""
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Relative half-width around the centre. In a bin of limits alone twice this is the largest share that a member may
    leave unused."""
    low: int | None = Field(default=None, gt=0)
    """Fewest parameters; with `high`."""
    high: int | None = Field(default=None, gt=0)
    """Most parameters; with `low`."""
    limits: LimitSettings | None = None
    """What members may take in memory and time, beside their parameters or alone."""
    reference: ModelSizes | None = None
    """The model at the centre, by which the paper charges a search and counts a saving. It is trained from random
    weights as the arm `reference_init`."""
    schedule: BinSchedule = BinSchedule()
    """What the bin changes of `schedule`: larger models learn at lower rates, in smaller portions."""
    arms: dict[ArmName, dict[str, Any]] = Field(default_factory=dict)
    """What the bin changes of `arms`, by arm: `distilled: {micro_batch: 4}`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bounds = self.low is not None or self.high is not None
        given = sum([self.fraction is not None, self.center is not None, bounds])
        if given > 1 or (given == 0 and self.limits is None):
            raise ValueError("give exactly one of `fraction`, `center`, or both `low` and `high`; or `limits` alone")
        if given == 0 and not self.tolerance < _HALF:
            raise ValueError(f"tolerance={self.tolerance} of a bin of limits alone must be below {_HALF}")
        if bounds:
            if self.low is None or self.high is None:
                raise ValueError("give both `low` and `high`")
            ParameterBin(self.low, self.high)
        return self

    def alone(self) -> Self:
        """Return the bin without what it changes of training, which decides nothing of a search."""
        return self.model_copy(update={"schedule": BinSchedule(), "arms": {}})

    def parameter_bin(self, teacher: Architecture) -> ParameterBin:
        """Return the bin for a teacher."""
        limits, whole = self.limits.of(teacher) if self.limits else (), num_parameters(teacher)
        if self.low is not None and self.high is not None:
            return ParameterBin(self.low, self.high, limits)
        if self.fraction is None and self.center is None:
            return ParameterBin(1, whole, limits, least_load=1 - 2 * self.tolerance)
        center = self.center if self.center is not None else (self.fraction or 0) * whole
        return replace(ParameterBin.around(center, self.tolerance), limits=limits)


class MeasurementSettings(Strict):
    """On which sequences of text models are measured, and where they run; every split serves one purpose."""

    length: int = Field(ge=2)
    """Tokens predicted per sequence. The first position of a text is left out of statistics."""
    reported_length: int | None = Field(default=None, gt=0)
    """The same where trained models are compared (split of the choice, reported losses); null: `length`."""
    calibration: int = Field(gt=0)
    """Sequences behind the importance scores."""
    elimination: int = Field(default=4, gt=0)
    """The most of these on which layers are left out one by one."""
    refit: int | None = Field(default=None, gt=0)
    """Sequences of the same split to which exported cuts are refitted; null: `calibration`."""
    selection: int = Field(gt=0)
    """Sequences on which all candidates of a search are compared."""
    choice: int = Field(gt=0)
    """Sequences on which the winner is chosen among the finalists."""
    validation: int = Field(gt=0)
    """Sequences of each source for the reported losses, and of foreign text."""
    heldout: int = Field(gt=0)
    """Validation sequences behind the curves and savings, of the sources that are trained on; also of every other split
    for the teacher's loss there."""
    batch_size: int = Field(default=4, gt=0)
    """Sequences of one forward pass."""
    device: Annotated[DeviceName, HOW] = "auto"
    """Where models run; `auto` is an accelerator where there is one."""
    precision: Precision = "auto"
    """Of forward passes; `auto` is bfloat16 where the hardware multiplies it faster than float32."""

    @property
    def hardware(self) -> tuple[DeviceName, Precision]:
        """Where models run, and in which precision."""
        return self.device, self.precision

    @property
    def final_length(self) -> int:
        """Tokens predicted per sequence of the choice and of reported losses."""
        return self.reported_length or self.length

    def length_of(self, split: str) -> int:
        """Return the tokens predicted per sequence of a split that a search works with."""
        return self.final_length if split == "choice" else self.length

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of the sequences that are read, by the settings that say them."""
        reported = {} if self.reported_length is None else {"measurement.reported_length": self.reported_length}
        return {"measurement.length": self.length, **reported}

    @property
    def num_refit(self) -> int:
        """Sequences to which exported cuts are refitted."""
        return self.refit or self.calibration

    @property
    def searched(self) -> dict[str, int]:
        """Sequences of each split that a search works with, of all sources together."""
        return {"calibration": self.calibration, "selection": self.selection, "choice": self.choice}

    @property
    def reported(self) -> dict[str, int]:
        """Sequences of every source of each split that losses are reported for."""
        read = dict.fromkeys(("validation", FOREIGN), self.validation)
        return dict.fromkeys(("train", *self.searched), self.heldout) | read


class ProtocolSettings(Strict):
    """The paper's way to choose a space (section 4.3): probe all of them on few tokens, train the best of each bin."""

    probe_tokens: int | None = Field(default=None, gt=0)
    """Tokens on which the sub-network of every (bin, space) is trained before the best space of each bin continues to
    `schedule.tokens` with all arms; null: there are no probes, and every (bin, space) gets all arms."""
    num_seeds: int = Field(default=1, gt=0)
    """Times that every arm is trained: with `schedule.seed` and the seeds after it, which draw random weights and the
    order of the text. Probes, tasks and speed are measured for the first seed only."""
    failed_gate: Annotated[OnFailure, HOW] = "stop"
    """What a sanity gate does that fails: `stop` before anything is spent on what it checks, or `warn` and go on."""

    def seeds(self, schedule: Schedule) -> list[int]:
        """Return the seeds of a study."""
        return [schedule.seed + place for place in range(self.num_seeds)]

    def probe_schedule(self, schedule: Schedule) -> Schedule | None:
        """Return the schedule of a probe: the study's own, but shorter; None without probes.

        Raises:
            ValueError: probes are as long as the training that they choose for, or end before they have warmed up.
        """
        if self.probe_tokens is None:
            return None
        probe = schedule.of_length(self.probe_tokens)
        if probe.num_steps >= schedule.num_steps:
            raise ValueError(
                f"protocol.probe_tokens={self.probe_tokens} must be fewer than schedule.tokens={schedule.tokens}, "
                "by one optimiser step at least"
            )
        return probe


class Conditions(Strict):
    """How everything is measured and trained, whatever is searched."""

    measurement: MeasurementSettings
    protocol: ProtocolSettings
    schedule: Schedule
    arms: Arms
    engine: Engine

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of the sequences that are read, by the settings that say them."""
        return {"schedule.sequence_length": self.schedule.sequence_length, **self.measurement.lengths}

    def within(self, bin_: BinSettings) -> Self:
        """Return the conditions of one bin, with what it changes of schedule and arms.

        Raises:
            ValueError: a change does not fit; the message names it and its place in the bin.
        """
        with naming("schedule"):
            schedule = self.schedule.changed(bin_.schedule.model_dump(exclude_none=True))
            self.protocol.probe_schedule(schedule)
        with naming("arms"):
            arms = self.arms.with_arms(bin_.arms)
            for name in Arms.model_fields:
                getattr(arms, name).fitted(schedule)
        return self.model_copy(update={"schedule": schedule, "arms": arms})
