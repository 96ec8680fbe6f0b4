"""What may come out of a search, before anybody knows: members of its bin, drawn at random."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.arch.limits import Limit, in_words
from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture
from budwood.evaluation.efficiency import timing_flops
from budwood.evaluation.settings import EfficiencySettings
from budwood.records.cost import Cost
from budwood.records.names import Variant
from budwood.records.workload import Workload
from budwood.reporting.memory import Memory
from budwood.reporting.quote import NUM_MEMBERS
from budwood.reporting.streaming import TextReading, cut_memory
from budwood.search.genes import stored_bytes
from budwood.study.costs import Correction, Extent, bin_center, writing_cost
from budwood.study.settings import BinSettings
from budwood.subnet.flops import latency_flops, solve_work
from budwood.subnet.settings import Compensation, MomentSettings, SpaceSettings

_NUM_HISTORIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A variant, and what may come out of it."""

    variant: Variant
    members: tuple[Architecture, ...]
    """Drawn from the bin; the winner alone where it is known."""
    center: Architecture
    """The model at the centre of the bin, by which the paper charges."""
    compensation: Compensation | None
    moments: MomentSettings | None
    """What decides the moments from which members are corrected; none where no regression is made."""
    genes_bytes: float
    """What the history of a search takes for one candidate."""
    limits: tuple[Limit, ...] = ()
    """Of the bin."""
    reference: Architecture | None = None
    """Named by the bin, to be trained beside the sub-networks."""
    num_gaps: int | None = None
    """Runs of dropped layers that follow a kept one, where that is known."""

    def forward(self, context: int) -> float:
        """Return the mean FLOPs of a forward pass of the members, per token."""
        return statistics.fmean(forward_flops_per_token(member, context=context) for member in self.members)

    def correction(self, teacher: Architecture, calibration: Extent, refitting: Extent) -> Cost:
        """Return the mean cost of correcting a member; where gaps are not known, every dropped layer is one."""
        return _mean([cut.cost() for cut in self._corrections(teacher, calibration, refitting)])

    def cut_work(self, teacher: Architecture, calibration: Extent, refitting: Extent) -> Workload:
        """Return the mean work of cutting a member out and correcting it, see `Correction.work`."""
        works = (cut.work() for cut in self._corrections(teacher, calibration, refitting))
        return sum(works, Workload()).times(1 / len(self.members))

    def _corrections(self, teacher: Architecture, calibration: Extent, refitting: Extent) -> list[Correction]:
        return [
            Correction(teacher, member, self._gaps(teacher, member), self.compensation, calibration, refitting)
            for member in self.members
        ]

    def solving(self, teacher: Architecture) -> float:
        """Return the mean FLOPs in which a member is corrected once moments are known."""
        if self.compensation is None:
            return 0.0
        return statistics.fmean(
            solve_work(teacher, member, self.compensation, num_gaps=self._gaps(teacher, member)).flops
            for member in self.members
        )

    def measuring_latency(self, length: int) -> float:
        """Return the mean FLOPs of measuring a member's latency on a sequence."""
        return statistics.fmean(latency_flops(member, length=length) for member in self.members)

    def _gaps(self, teacher: Architecture, member: Architecture) -> int:
        kept = member.num_hidden_layers
        return min(kept, teacher.num_hidden_layers - kept) if self.num_gaps is None else self.num_gaps

    def writing(self, first: int, written: Sequence[int], compared: Sequence[int]) -> Cost:
        """Return the mean cost of continuing prompts and of reading what the teacher wrote (see `writing_cost`)."""
        return _mean([writing_cost(member, first, written, compared) for member in self.members])

    def timing(self, settings: EfficiencySettings) -> float:
        """Return the mean FLOPs of timing a member."""
        return statistics.fmean(timing_flops(member, settings) for member in self.members)

    def cutting(self, teacher: Architecture, reading: TextReading) -> Memory:
        """Return what it takes to cut a member out and to correct it, of the one that takes most.

        Args:
            teacher: what is cut.
            reading: the calibration text.
        """
        memories = (cut_memory(teacher, member, self.compensation, reading) for member in self.members)
        return max(memories, key=lambda memory: memory.total)

    @property
    def taken(self) -> str:
        """What members take of what their bin limits, from the least to the most; empty without limits."""
        amounts = {limit: [limit.of(member) for member in self.members] for limit in self.limits}
        return ", ".join(
            f"{limit.name} {' to '.join(in_words(limit.name, end) for end in (min(each), max(each)))}, "
            f"at most {in_words(limit.name, limit.most)}"
            for limit, each in amounts.items()
        )

    @property
    def largest(self) -> Architecture:
        """The member with the most parameters."""
        return max(self.members, key=num_parameters)


def _mean(costs: Sequence[Cost]) -> Cost:
    """Return costs of equal text as one of the mean FLOPs."""
    return costs[0].model_copy(update={"flops": statistics.fmean(cost.flops for cost in costs)})


def forecast(teacher: Architecture, variant: Variant, bin_: BinSettings, space: SpaceSettings) -> Forecast:
    """Draw what may come out of a variant.

    Raises:
        ValueError: the bin cannot be reached.
    """
    parameter_bin = bin_.parameter_bin(teacher)
    try:
        members, genes_bytes = draw_members(space.search_space(teacher), parameter_bin)
    except ValueError as error:
        raise ValueError(f"bins.{variant.bin} in spaces.{variant.space}: {error}") from None
    return Forecast(
        variant=variant,
        members=members,
        center=bin_center(bin_, parameter_bin, teacher),
        compensation=space.compensation,
        moments=space.moments,
        genes_bytes=genes_bytes,
        limits=parameter_bin.limits,
        reference=bin_.reference.architecture() if bin_.reference else None,
    )


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
    written = stored_bytes([sample(space, parameter_bin, rng) for _ in range(_NUM_HISTORIES)])
    return members, written / _NUM_HISTORIES
