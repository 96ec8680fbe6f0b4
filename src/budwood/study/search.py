"""The search of one variant."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import pandas as pd
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters, paper_search_flops
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.records.cost import Cost, CostStage
from budwood.records.files import append_json_lines, read_json_lines, write_json_lines
from budwood.records.search import Described, Finalist, Finalists, FrontPoint, Gathering, Taken
from budwood.records.tracking import Track
from budwood.search.candidate import SearchRecord
from budwood.search.evolution import Strategy
from budwood.search.fitness import PERPLEXITY, module_of
from budwood.search.genes import Genes
from budwood.search.run import genes_folder, run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy
from budwood.study.costs import bin_center, fitness_costs
from budwood.study.evaluators import EvaluatorSource, evaluating_candidates
from budwood.study.moments import Gathered, GatherMoments
from budwood.study.settings import BinSettings
from budwood.study.source import code_hash
from budwood.study.stage import Stage, Work
from budwood.study.teacher import importance_of
from budwood.study.text import Materials, Windows
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import SpaceSettings

HISTORY, EPOCHS = "history.jsonl", "epochs.jsonl"
"""In the work folder of a search: what candidates read, and the metrics of every epoch."""


class Found(NamedTuple):
    """What a search found: all candidates, and the best."""

    history: pd.DataFrame
    """A row for every candidate; see `budwood.search.candidate.SearchRecord`."""
    genes: Genes
    """What every candidate keeps."""
    finalists: Finalists


@dataclass(frozen=True, kw_only=True)
class EvolveSubnets(Stage[Found]):
    """Search sub-networks inside a bin."""

    name: ClassVar[str] = "search"

    teacher: Checkpoint
    importance: dict[str, Tensor]
    selection: Windows
    bin_: BinSettings
    space: SpaceSettings
    """With the corrections with which candidates are compared."""
    search: SearchSettings
    calibration: Windows | None
    """From which candidates are corrected; none where no regression is made."""
    compute: Compute
    batch_size: int

    @classmethod
    def of(
        cls,
        materials: Materials,
        importance: dict[str, Tensor],
        bin_: BinSettings,
        space: SpaceSettings,
        search: SearchSettings,
    ) -> Self:
        """Declare the search of a bin in a space."""
        compared = space if search.compares_corrected else space.model_copy(update={"compensation": None})
        return cls(
            teacher=materials.teacher,
            importance=importance if space.needs_statistics or search.needs_statistics else {},
            selection=materials.windows("selection"),
            bin_=bin_.alone(),
            space=compared,
            search=search.alone(),
            calibration=materials.windows("calibration") if compared.moments else None,
            compute=materials.compute,
            batch_size=materials.measurement.batch_size,
        )

    @property
    def parameter_bin(self) -> ParameterBin:
        """The bin for this teacher."""
        return self.bin_.parameter_bin(self.teacher.architecture)

    def facts(self) -> dict[str, Any]:
        """Return what decides the result, with the source of a fitness of the user's own."""
        module = module_of(self.search.fitness)
        return super().facts() | ({"fitness_code": code_hash(module)} if module else {})

    def run(self, work: Work) -> Found:
        """Search; a killed run continues after the last candidate."""
        ordered = open_ordered(self.teacher.folder, self.space, importance_of(self.importance))
        gathered = self._gathered(work)
        source = EvaluatorSource(
            teacher=self.teacher,
            importance=self.importance,
            windows=self.selection.read(),
            space=self.space,
            search=self.search,
            compute=self.compute,
            batch_size=self.batch_size,
            moments=gathered.moments if gathered else None,
        )
        ranked = ordered.ranked
        strategy = open_strategy(self.space.search_space(ranked), self.parameter_bin, self.search)

        epochs = work.folder / EPOCHS
        write_json_lines(epochs, [])

        def log(strategy: Strategy, records: Sequence[SearchRecord]) -> None:
            row = _of_epoch(strategy, records)
            append_json_lines(epochs, [row])
            _track(row, work.track)

        with evaluating_candidates(source) as evaluate:
            records = run_search(strategy, evaluate, work.folder / HISTORY, self.selection.count, log)
        finalists = self._finalists(strategy, ordered, records, gathered)
        genes = Genes.open(genes_folder(work.folder / HISTORY))
        return Found(_history(records, self.search.fitness), genes, finalists)

    def replay(self, work: Work) -> None:
        """Report every epoch."""
        for row in read_json_lines(work.folder / EPOCHS):
            _track(row, work.track)

    def _gathered(self, work: Work) -> Gathered | None:
        """Return what candidates are corrected from, which searches of other variants may have gathered."""
        if self.calibration is None or self.space.moments is None:
            return None
        stage = GatherMoments(
            teacher=self.teacher,
            importance=self.importance if self.space.needs_statistics else {},
            settings=self.space.moments,
            calibration=self.calibration,
            compute=self.compute,
            batch_size=self.batch_size,
        )
        return work.workspace.finish(stage)

    def _finalists(
        self, strategy: Strategy, ordered: OrderedTeacher, records: Sequence[SearchRecord], gathered: Gathered | None
    ) -> Finalists:
        ranked = ordered.ranked
        candidates = [
            Finalist(
                **dict(describe(elite.selection, ranked)),
                selection_loss=elite.loss,
                taken=taken_by(elite.selection.architecture(ranked), self.parameter_bin),
            )
            for elite in strategy.elites
        ]
        front = [
            FrontPoint(**dict(describe(selection, ranked)), objectives=dict(objectives))
            for objectives, selection in strategy.front
        ]
        cost = Cost(
            stage="search",
            flops=sum(record.flops for record in records),
            tokens=sum(record.tokens for record in records),
            seconds=sum(record.seconds for record in records),
        )
        return Finalists(
            fitness=self.search.fitness,
            parameter_bin=(self.parameter_bin.low, self.parameter_bin.high),
            num_evaluations=len(records),
            paper_flops=paper_search_flops(bin_center(self.bin_, self.parameter_bin, ranked)),
            front=tuple(front),
            candidates=tuple(candidates),
            costs=(cost, *fitness_costs(self.search.fitness, ranked, self.selection.extent)),
            gathering=Gathering(moments=gathered.moments.fingerprint, cost=gathered.cost) if gathered else None,
            ranking=self._ranking(),
        )

    def _ranking(self) -> tuple[CostStage, ...]:
        """Return the stages of ranking components that the search and the order of its space need."""
        scored: tuple[CostStage, ...] = ("calibration",) if self.importance else ()
        return (*scored, "elimination") if self.space.needs_elimination else scored


def describe(selection: Selection, ranked: Architecture) -> Described:
    """Return what a sub-network of a teacher keeps, in words, and its size."""
    sizes = selection.architecture(ranked)
    return Described(selection=selection, description=sizes.describe(), num_parameters=num_parameters(sizes))


def taken_by(sizes: Architecture, parameter_bin: ParameterBin) -> tuple[Taken, ...]:
    """Return what a sub-network takes of what its bin limits."""
    return tuple(Taken(limit=limit.name, amount=limit.of(sizes), most=limit.most) for limit in parameter_bin.limits)


def _history(records: Sequence[SearchRecord], fitness: str) -> pd.DataFrame:
    history = pd.DataFrame([record.to_dict() for record in records]).assign(fitness=fitness)
    if fitness != PERPLEXITY:
        history = history.drop(columns="perplexity")
    # Columns without any value have no type of their own.
    return history.astype({"flops_per_token": float, "latency_seconds": float})


def _of_epoch(strategy: Strategy, records: Sequence[SearchRecord]) -> dict[str, float]:
    """Return the epoch that has just ended, and its metrics."""
    epoch = records[-1].epoch
    newest = [record.loss for record in records if record.epoch == epoch and math.isfinite(record.loss)]
    return {
        "epoch": epoch,
        "epoch_median_loss": statistics.median(newest) if newest else math.nan,
        "evaluations": len(records),
        "tokens": sum(record.tokens for record in records),
        "flops": sum(record.flops for record in records),
        **strategy.metrics(),
    }


def _track(row: Mapping[str, float], track: Track) -> None:
    track({f"search.{name}": value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))
