"""A study before it has run: what it searches, reads and trains, and what may come out of it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters, training_flops_per_token
from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture
from budwood.reporting.memory import Memory, Precision, training_memory
from budwood.subnet.compensate import Compensation, regression_flops
from budwood.training.settings import Schedule

NUM_MEMBERS = 64
"""Sub-networks drawn from every bin; nobody knows beforehand which of them a search will find."""
CHOSEN = "chosen by probes"
"""Stands for the space of a bin that probes will choose."""
_NUM_HISTORIES = 3
_BISECTIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How much text is measured on; sequences unless it says otherwise."""

    length: int
    """Tokens of a sequence."""
    batch_size: int
    """Of one forward pass."""
    calibration: int
    elimination: int
    """Every time that a layer is left out on trial."""
    selection: int
    """For each candidate."""
    choice: int
    """For each finalist."""
    teacher: int
    """Of all splits and sources, for the teacher."""
    validation: int
    """Of all sources, for each arm."""
    heldout: int
    """For every held-out loss on the way; of the length that is trained."""
    question_tokens: int = 0
    """Of all held-out questions that a model is asked."""
    timed_tokens: int = 0
    """That every timed model reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A bin with a space, and what may come out of it."""

    bin: str
    space: str
    members: tuple[Architecture, ...]
    """Drawn from the bin."""
    center: Architecture
    """The model at the centre of the bin, by which the paper charges."""
    compensation: Compensation | None
    genes_bytes: float
    """What the history of a search takes for one candidate: all that it keeps."""
    reference: Architecture | None = None
    """That the bin names, to be trained beside the sub-networks."""

    def mean_forward(self, context: int) -> float:
        """Return the mean FLOPs of a forward pass of the members, per token."""
        return statistics.fmean(forward_flops_per_token(member, context=context) for member in self.members)

    def mean_training(self, context: int) -> float:
        """Return the mean FLOPs of training the members, per token."""
        return statistics.fmean(training_flops_per_token(member, context=context) for member in self.members)

    def mean_compensation(self, teacher: Architecture, num_tokens: int, context: int) -> float:
        """Return the mean FLOPs of correcting the members, if every dropped layer stood by itself; 0 where none is."""
        if self.compensation is None:
            return 0.0
        regressions = (
            regression_flops(
                teacher,
                member,
                self.compensation,
                num_tokens=num_tokens,
                num_gaps=min(member.num_hidden_layers, teacher.num_hidden_layers - member.num_hidden_layers),
            )
            for member in self.members
        )
        return num_tokens * forward_flops_per_token(teacher, context=context) + statistics.fmean(regressions)

    @property
    def largest(self) -> Architecture:
        """The member with the most parameters."""
        return max(self.members, key=num_parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All that a study's cost follows from."""

    teacher: Architecture
    teacher_bytes_per_parameter: int
    """In its files, and in those of what is cut out of it."""
    variants: tuple[Variant, ...]
    num_evaluations: int
    """Candidates of one search."""
    num_finalists: int
    finalist_tokens: int
    """On which every finalist is trained."""
    reading: Reading
    schedule: Schedule
    arms: Mapping[str, bool]
    """Whether a live teacher takes part, by the name of the arm."""
    cached_sequence_bytes: int = 0
    """Of what the teacher has said of a training sequence, at most, where it is asked beforehand; 0: it is not."""
    precision: Precision
    num_seeds: int = 1
    """Times that every arm is trained."""
    probe_schedule: Schedule | None = None
    """Of the training of every variant's sub-network, after which the best of each bin goes on; None: all do."""
    fitness_flops_per_token: float = 0.0
    """Of a search, beside the candidates' own forward passes."""

    @property
    def trained(self) -> tuple[Variant, ...]:
        """What is trained in full: all variants, or one of every bin that nobody knows yet."""
        if self.probe_schedule is None:
            return self.variants
        bins: dict[str, list[Variant]] = {}
        for variant in self.variants:
            bins.setdefault(variant.bin, []).append(variant)
        return tuple(
            replace(spaces[0], space=CHOSEN, members=tuple(member for space in spaces for member in space.members))
            for spaces in bins.values()
        )

    @property
    def probed_tokens(self) -> int:
        """Tokens of a probe that the training after it does not repeat."""
        probe = self.probe_schedule
        if probe is None or probe.shape != "warmup_stable_decay":
            return 0
        return probe.decay_start * probe.tokens_per_step

    def heldout_tokens(self, schedule: Schedule, after: int = 0) -> int:
        """Return the tokens of all held-out losses of one run after some tokens, step 0 included."""
        steps, count = schedule.num_steps, schedule.num_evaluations
        taken = {0, *(round(steps * (place + 1) / count) for place in range(count))}
        times = sum(step * schedule.tokens_per_step > after for step in taken) if after else len(taken)
        return times * self.reading.heldout * schedule.sequence_length

    def training_memory(self, members: Sequence[Architecture], micro_batch: int, *, taught: bool) -> Memory:
        """Return what training takes, of that model which takes most."""
        tokens, teacher = micro_batch * self.schedule.sequence_length, self.teacher if taught else None
        memories = (
            training_memory(member, num_tokens=tokens, precision=self.precision, teacher=teacher) for member in members
        )
        return max(memories, key=lambda memory: memory.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Searches, and trainings of what they find, that are run by the name of their pipeline alone."""

    name: str
    schedule: Schedule
    """Of each training."""
    searches: tuple[tuple[Study, Variant], ...]
    """How each is searched, and what."""
    runs: tuple[tuple[Variant, float], ...]
    """What is trained, and the FLOPs of its teacher's forward pass, per token; 0 without a teacher."""


def draw_members(
    space: SearchSpace, parameter_bin: ParameterBin, *, num_members: int = NUM_MEMBERS
) -> tuple[tuple[Architecture, ...], float]:
    """Return sub-networks that lie in a bin, and the mean bytes of what a search writes down of one of them.

    Raises:
        ValueError: the bin cannot be reached.
    """
    rng = np.random.default_rng(0)
    # Sizes are drawn before entries: where layers are alike those of the coarse space are the same, and come at once.
    sizes = replace(space, granularity="coarse") if space.teacher.is_uniform else space
    members = tuple(sample(sizes, parameter_bin, rng).architecture(space.teacher) for _ in range(num_members))
    written = [len(json.dumps(sample(space, parameter_bin, rng).to_dict())) for _ in range(_NUM_HISTORIES)]
    return members, statistics.fmean(written)


def in_small(teacher: Architecture, size: float) -> Architecture:
    """Return the model of a teacher's proportions whose number of parameters comes nearest to a size.

    Hidden size, heads, MLP width and layers shrink by one factor; heads keep their dimensions.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if num_parameters(_scaled(teacher, middle)) < size else (low, middle)
    return min((_scaled(teacher, factor) for factor in (low, high)), key=lambda m: abs(num_parameters(m) - size))


def _scaled(teacher: Architecture, factor: float) -> Architecture:
    def shrunk(size: int) -> int:
        return max(1, round(size * factor))

    first = teacher.layers[0]
    groups = shrunk(first.num_key_value_heads)
    layer = replace(
        first,
        num_attention_heads=groups * first.heads_per_group,
        num_key_value_heads=groups,
        intermediate_size=shrunk(first.intermediate_size),
    )
    depth = shrunk(teacher.num_hidden_layers)
    return replace(teacher, hidden_size=shrunk(teacher.hidden_size), layers=(layer,) * depth)
