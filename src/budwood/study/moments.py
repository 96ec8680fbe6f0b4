"""The moments from which searches correct their candidates, gathered once for all searches of one order."""

import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.records.cost import Cost
from budwood.records.files import write_folder_atomically
from budwood.study.costs import moments_cost
from budwood.study.stage import Stage, Work
from budwood.study.teacher import importance_of
from budwood.study.text import Windows
from budwood.subnet.compensate import possible_gaps, store_moments
from budwood.subnet.moments import StoredMoments
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import MomentSettings

MOMENTS = "moments"


class Gathered(NamedTuple):
    """Moments, and what it cost to gather them."""

    moments: StoredMoments
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class GatherMoments(Stage[Gathered]):
    """Read calibration text through an ordered teacher. What is gathered takes as much room as the teacher."""

    name: ClassVar[str] = "moments"

    teacher: Checkpoint
    importance: dict[str, Tensor]
    settings: MomentSettings
    calibration: Windows
    compute: Compute
    batch_size: int

    def run(self, work: Work) -> Gathered:
        """Gather, layer by layer."""
        started, settings, folder = time.perf_counter(), self.settings, work.folder / MOMENTS
        ordered = open_ordered(self.teacher.folder, settings, importance_of(self.importance)).on(self.compute)
        gaps = possible_gaps(ordered, coarse=settings.granularity == "coarse")
        if not folder.is_dir():
            with write_folder_atomically(folder) as unfinished:
                store_moments(
                    ordered,
                    self.calibration.read()[:, :-1],
                    settings.compensation,
                    unfinished,
                    gaps=gaps,
                    batch_size=self.batch_size,
                )
        cost = moments_cost(ordered.architecture, settings.compensation, len(gaps), self.calibration.extent)
        return Gathered(StoredMoments(folder), cost.after(time.perf_counter() - started))
