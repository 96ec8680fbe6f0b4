"""All that the cost of a study follows from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import get_args

from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.evaluation.settings import EvaluationSettings
from budwood.records.names import Variant
from budwood.reporting.memory import BYTES, DtypeName, Memory, forward_memory, timing_memory, training_memory
from budwood.reporting.searching import Evaluating, search_memory
from budwood.reporting.streaming import TextReading
from budwood.search.elimination import Kept
from budwood.search.fitness import DIVERGENCE, PERPLEXITY
from budwood.search.settings import SearchSettings
from budwood.study.costs import Extent
from budwood.study.forecast import Forecast
from budwood.study.gate_costs import HalvedAxis, halved
from budwood.study.settings import Conditions
from budwood.subnet.evaluate import LARGEST_FAMILY
from budwood.training.settings import ArmSettings, DistillationSettings, Schedule
from budwood.training.teacher import with_tail

CHOSEN = "chosen by probes"
"""The space of a bin that probes will choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStudy:
    """All that a study's cost follows from."""

    teacher: Architecture
    teacher_bytes_per_parameter: int
    """In its files, and in those of what is cut out of it."""
    forecasts: tuple[Forecast, ...]
    search: SearchSettings
    conditions: Conditions
    evaluation: EvaluationSettings
    bins: Mapping[str, Conditions] = field(default_factory=dict)
    """Conditions of bins that change something of them."""
    num_sources: Mapping[str, int]
    """Sources of text that every split has."""
    precision: DtypeName
    needs_statistics: bool = True
    needs_elimination: bool = True
    num_orderings: int = 0
    """Orders of the teacher that are checked."""
    trials: tuple[tuple[Kept, ...], ...] | None = None
    """Layers that were kept in each trial of the elimination, call by call, where that is known."""
    num_dropped_ids: int = 0
    """Ids that the teacher had before its vocabulary was cut."""
    positions: int | None = None
    """The largest number of positions; None where that is not known."""
    chats: bool = True
    """Whether the teacher's tokenizer may have a chat template."""

    @property
    def trained(self) -> tuple[Forecast, ...]:
        """What is trained in full: all variants, or one of every bin, not chosen yet."""
        if self.probe_schedule is None:
            return self.forecasts
        bins: dict[str, list[Forecast]] = {}
        for each in self.forecasts:
            bins.setdefault(each.variant.bin, []).append(each)
        return tuple(
            replace(
                spaces[0],
                variant=Variant(bin_name, CHOSEN),
                members=tuple(member for space in spaces for member in space.members),
            )
            for bin_name, spaces in bins.items()
        )

    def within(self, bin_name: str) -> "PlannedStudy":
        """Return the study under the conditions of a bin."""
        return replace(self, conditions=self.bins.get(bin_name, self.conditions))

    @property
    def schedule(self) -> Schedule:
        """Of every arm."""
        return self.conditions.schedule

    @property
    def longest(self) -> Schedule:
        """The longest of all bins."""
        schedules = [self.within(each.variant.bin).schedule for each in self.forecasts]
        return max(schedules or [self.schedule], key=lambda schedule: schedule.num_tokens)

    def micro_batch(self, arm: str) -> int:
        """Return how many sequences of an arm go through the model of one device at once."""
        own: ArmSettings = getattr(self.conditions.arms, arm)
        return own.fitted(self.schedule).micro_batch

    @property
    def probe_schedule(self) -> Schedule | None:
        """Of probes; None without them."""
        return self.conditions.protocol.probe_schedule(self.schedule)

    def teacher_beside(self, arm: str) -> Architecture | None:
        """Return the teacher that runs beside an arm, with the head that its loss runs; None without one."""
        settings: DistillationSettings | None = getattr(self.conditions.arms, arm).distillation
        live = settings is not None and settings.teacher == "live"
        return with_tail(self.teacher, settings, self.num_dropped_ids) if live else None

    def text(self, split: str, count: int | None = None) -> Extent:
        """Return the sequences of a split that a search works with, or some number of them."""
        measurement = self.conditions.measurement
        return Extent(measurement.searched[split] if count is None else count, measurement.length_of(split))

    def reading(self, text: Extent, size: int) -> TextReading:
        """Return how the teacher reads a text layer by layer, with so many bytes a parameter."""
        batch = self.conditions.measurement.batch_size
        return TextReading(num_sequences=text.count, length=text.length, batch_size=batch, size=size)

    def training_memory(
        self, members: Sequence[Architecture], micro_batch: int, teacher: Architecture | None = None
    ) -> Memory:
        """Return what training takes, beside a teacher where one is given, of that model which takes most."""
        length = self.schedule.sequence_length
        measure = partial(training_memory, num_tokens=micro_batch * length, length=length, precision=self.precision)
        memories = (measure(member, teacher=teacher) for member in members)
        return max(memories, key=lambda memory: memory.total)

    def reading_memory(self, model: Architecture, teacher: Architecture | None = None) -> Memory:
        """Return what measuring losses takes; with a teacher, those of its candidates."""
        measurement = self.conditions.measurement
        return forward_memory(
            model,
            num_sequences=measurement.batch_size,
            length=measurement.length if teacher else measurement.final_length,
            precision=self.precision,
            teacher=teacher,
        )

    def searching_memory(self, each: Forecast) -> Memory:
        """Return what it takes to search a variant, of the member that takes most."""
        search = self.search
        shares = search.reuse and search.fitness in (PERPLEXITY, DIVERGENCE)
        evaluating = Evaluating(
            reading=self.reading(self.text("selection"), BYTES[self.precision]),
            num_together=(search.population if search.workers == 1 else LARGEST_FAMILY) if shares else 1,
            diverges=search.fitness == DIVERGENCE,
            compensation=each.compensation if search.compares_corrected else None,
        )
        memories = (
            search_memory(self.reading_memory(member, self.teacher), member, self.teacher, evaluating)
            for member in each.members
        )
        return max(memories, key=lambda memory: memory.total)

    def evaluating_memory(self, each: Forecast) -> Memory:
        """Return what it takes to measure a variant, and to time it beside the teacher and its reference."""
        read, efficiency = self.reading_memory(each.largest), self.evaluation.efficiency
        if efficiency is None:
            return read
        timed = timing_memory(
            [each.largest, self.teacher, *([each.reference] if each.reference else [])],
            num_sequences=efficiency.batch_size,
            length=efficiency.prompt_tokens,
            new_tokens=efficiency.new_tokens,
            precision=self.precision,
        )
        return max(read, timed, key=lambda memory: memory.total)


def order_gate_memory(teacher: Architecture, reading: Callable[[Architecture], Memory]) -> Memory:
    """Return what the check of an order takes: the whole teacher, and of what is cut the part that is copied.

    The first half of an axis is a part of the teacher's memory, the last half is copied: as many parameters as an even
    axis loses. Layers are shared.

    Args:
        teacher: what is ordered.
        reading: what it takes a cut to read the text, beside the teacher.
    """

    def held(axis: HalvedAxis) -> Memory:
        half = halved(teacher, axis)
        memory, lost = reading(half), num_parameters(teacher) - num_parameters(half)
        copied = 0 if axis == "layers" else memory.weights * lost // num_parameters(half)
        return replace(memory, weights=copied)

    return max(map(held, get_args(HalvedAxis)), key=lambda memory: memory.total)
