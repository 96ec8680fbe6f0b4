"""The search of one variant, and the choice of its winner."""

import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters, paper_search_flops
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.models.certificate import prove
from budwood.models.checkpoint import Checkpoint, load_model
from budwood.models.device import Compute, choose_compute
from budwood.models.losses import sequence_losses
from budwood.records.certificate import Proof
from budwood.records.cost import Cost
from budwood.records.files import append_json_lines, read_json_lines
from budwood.records.search import Finalist, Finalists, FrontPoint, Searched, Winner
from budwood.records.strict import Strict
from budwood.search.candidate import SearchRecord, canonical_key
from budwood.search.choice import Choice, choose
from budwood.search.fitness import PERPLEXITY, module_of
from budwood.search.genes import Genes
from budwood.search.run import genes_folder, run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import Strategy, open_strategy
from budwood.study.costs import (
    bin_center,
    choice_cost,
    correction_cost,
    fitness_costs,
    forward_of,
    moments_costs,
    proof_cost,
)
from budwood.study.evaluators import EvaluatorSource, evaluating_candidates
from budwood.study.settings import BinSettings, Conditions, MeasurementSettings
from budwood.study.source import code_hash
from budwood.study.stage import NOT_DECIDING, Stage, Track, Work, no_tracking
from budwood.study.teacher import importance_of
from budwood.study.text import Windows
from budwood.subnet.compensate import corrections_made, cut_out, gaps_of, possible_gaps, store_moments, write_cut
from budwood.subnet.extract import Cut, resolve
from budwood.subnet.moments import Gap, StoredMoments
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import SpaceSettings
from budwood.training.job import TrainingJob
from budwood.training.launch import run_job
from budwood.training.run import MODEL
from budwood.training.settings import Engine, Schedule

HISTORY, LOOKS, MOMENTS = "history.jsonl", "looks.jsonl", "moments"


def compared_space(space: SpaceSettings, search: SearchSettings) -> SpaceSettings:
    """Return a space with the corrections with which a search compares its members."""
    return space if search.compares_corrected else space.without_corrections()


@dataclass(frozen=True, slots=True)
class Found:
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
    result: ClassVar[type] = Found

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
        teacher: Checkpoint,
        importance: dict[str, Tensor],
        tokens: PackedCorpus,
        variant: tuple[BinSettings, SpaceSettings],
        search: SearchSettings,
        measurement: MeasurementSettings,
    ) -> "EvolveSubnets":
        """Declare the search of a variant."""
        bin_, space = variant
        space = compared_space(space, search)
        return cls(
            teacher=teacher,
            importance=importance,
            selection=Windows.searched(tokens, "selection", measurement),
            bin_=bin_.alone(),
            space=space,
            search=search.alone(),
            calibration=Windows.searched(tokens, "calibration", measurement) if space.regresses else None,
            compute=choose_compute(measurement.device, measurement.precision),
            batch_size=measurement.batch_size,
        )

    @property
    def parameter_bin(self) -> ParameterBin:
        """The bin for this teacher."""
        return self.bin_.parameter_bin(num_parameters(self.teacher.architecture))

    def facts(self) -> dict[str, Any]:
        """Return what decides the result, with the source of a fitness of the user's own."""
        module = module_of(self.search.fitness)
        return super().facts() | ({"fitness_code": code_hash(module)} if module else {})

    def run(self, work: Work) -> Found:
        """Search; a killed run continues after the last candidate."""
        ordered = open_ordered(self.teacher.folder, self.space, importance_of(self.importance))
        source = EvaluatorSource(
            teacher=self.teacher,
            importance=self.importance,
            windows=self.selection.read(),
            space=self.space,
            search=self.search,
            compute=self.compute,
            batch_size=self.batch_size,
            moments=self._moments(ordered, work),
        )
        ranked = ordered.ranked
        strategy = open_strategy(self.space.search_space(ranked), self.parameter_bin, self.search)

        def log(strategy: Strategy, records: Sequence[SearchRecord]) -> None:
            _log_epoch(strategy, records, work.track)

        with evaluating_candidates(source) as evaluate:
            records = run_search(strategy, evaluate, work.folder / HISTORY, self.selection.count, log)
        # They are as large as the teacher, and nothing needs them any more.
        shutil.rmtree(work.folder / MOMENTS, ignore_errors=True)
        finalists = self._finalists(strategy, ordered, records)
        genes = Genes.open(genes_folder(work.folder / HISTORY))
        return Found(_history(records, self.search.fitness), genes, finalists)

    def _moments(self, ordered: OrderedTeacher, work: Work) -> StoredMoments | None:
        """Return what candidates are corrected from; gathered once, whatever becomes of this process."""
        if self.calibration is None:
            return None
        assert self.space.compensation is not None, "only given where candidates are corrected"
        folder, unfinished = work.folder / MOMENTS, work.folder / f"{MOMENTS}-unfinished"
        if not folder.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            store_moments(
                ordered.on(self.compute),
                self.calibration.read()[:, :-1],
                self.space.compensation,
                unfinished,
                gaps=self._gaps(ordered),
                batch_size=self.batch_size,
            )
            unfinished.rename(folder)
        return StoredMoments(folder)

    def _gaps(self, ordered: OrderedTeacher) -> tuple[Gap, ...]:
        return possible_gaps(ordered, coarse=self.space.granularity == "coarse")

    def _finalists(self, strategy: Strategy, ordered: OrderedTeacher, records: Sequence[SearchRecord]) -> Finalists:
        ranked, calibration = ordered.ranked, self.calibration
        candidates = [
            Finalist(selection=elite.selection, **_describe(elite.selection, ranked), selection_loss=elite.loss)
            for elite in strategy.elites
        ]
        front = [
            FrontPoint(selection=selection, **_describe(selection, ranked), objectives=dict(objectives))
            for objectives, selection in strategy.front
        ]
        cost = Cost(
            stage="search",
            flops=sum(record.flops for record in records),
            tokens=sum(record.tokens for record in records),
            seconds=sum(record.seconds for record in records),
        )
        gathering = []
        if calibration is not None:
            settings, num_gaps = self.space.compensation, len(self._gaps(ordered))
            gathering = moments_costs(ordered.architecture, settings, num_gaps, calibration.extent)
        return Finalists(
            fitness=self.search.fitness,
            parameter_bin=(self.parameter_bin.low, self.parameter_bin.high),
            num_evaluations=len(records),
            paper_flops=paper_search_flops(bin_center(self.bin_, self.parameter_bin, ranked)),
            front=tuple(front),
            candidates=tuple(candidates),
            costs=(cost, *gathering, *fitness_costs(self.search.fitness, ranked, self.selection.extent)),
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The winner, and its cut as a checkpoint folder without a certificate."""

    winner: Winner
    cut: Checkpoint


@dataclass(frozen=True, kw_only=True)
class BriefTraining:
    """How finalists are trained before they are compared."""

    schedule: Schedule
    learning_rate: float
    heldout: int
    engine: Engine = field(metadata=NOT_DECIDING)

    @classmethod
    def of(cls, tokens: int, conditions: Conditions) -> "BriefTraining | None":
        """Return how finalists are trained on some tokens; None for no tokens."""
        if not tokens:
            return None
        schedule = conditions.schedule
        return cls(
            schedule=schedule.brief(tokens),
            learning_rate=conditions.arms.subnet_init.rate(schedule),
            heldout=conditions.measurement.heldout,
            engine=conditions.engine,
        )


@dataclass(frozen=True, kw_only=True)
class ChooseWinner(Stage[Chosen]):
    """Cut all finalists as they are exported, perhaps train them briefly, and compare them on text of their own."""

    name: ClassVar[str] = "choice"
    result: ClassVar[type] = Chosen

    teacher: Checkpoint
    importance: dict[str, Tensor]
    calibration: Windows
    choice: Windows
    finalists: tuple[Finalist, ...]
    space: SpaceSettings
    training: BriefTraining | None
    compute: Compute
    batch_size: int
    searched: Searched
    """The winner carries its facts."""

    def run(self, work: Work) -> Chosen:
        """Look at the finalists one by one; a killed run continues with the first that it has not finished."""
        file = work.folder / LOOKS
        looks = [Look.model_validate(row) for row in read_json_lines(file)]
        ordered = open_ordered(self.teacher.folder, self.space, importance_of(self.importance)).on(self.compute)
        left = self.finalists[len(looks) :]
        for finalist in tqdm(left, desc="finalists", unit="candidate", dynamic_ncols=True):
            looks.append(self._look(ordered, finalist.selection, work))
            append_json_lines(file, [looks[-1].model_dump(mode="json")])
        found = choose([look.losses for look in looks])
        folders = [_folder_of(finalist.selection, work) for finalist in self.finalists]
        for loser in set(folders) - {folders[found.winner]}:
            shutil.rmtree(loser, ignore_errors=True)
        return Chosen(self._winner(found, looks, ordered), Checkpoint.open(folders[found.winner]))

    def _look(self, ordered: OrderedTeacher, finalist: Selection, work: Work) -> "Look":
        """Cut a finalist out, train it where that is wanted, and return its losses."""
        started = perf_counter()
        calibration, text = self.calibration.read()[:, :-1], self.choice.read()[0]
        child = cut_out(ordered, finalist, calibration, self.space.compensation, batch_size=self.batch_size)
        cut, expected = write_cut(child, self.teacher.folder, _folder_of(finalist, work), text, self.compute.device)
        proof = prove(expected, cut, child.architecture, ParameterBin(*self.searched.parameter_bin), text)
        model = self._train(cut, work) if self.training else load_model(cut, self.compute.dtype)
        losses = sequence_losses(self.compute.place(model), self.choice.read(), batch_size=self.batch_size)
        return Look(losses=losses.tolist(), proof=proof, seconds=perf_counter() - started)

    def _train(self, cut: Path, work: Work) -> PreTrainedModel:
        assert self.training is not None, "only called where finalists are trained"
        job = TrainingJob(
            arm="finalist",
            model_folder=cut,
            initialisation="checkpoint",
            teacher_folder=self.teacher.folder,
            corpus_folder=self.choice.tokens.directory,
            output_folder=work.folder / f"{cut.name}-trained",
            learning_rate=self.training.learning_rate,
            schedule=self.training.schedule,
            heldout_windows=self.training.heldout,
            device=self.compute.name,
            precision=self.compute.precision,
            engine=self.training.engine,
        )
        run_job(job, no_tracking, {})
        return load_model(job.output_folder / MODEL, torch.float32)

    def _winner(self, found: Choice, looks: Sequence["Look"], ordered: OrderedTeacher) -> Winner:
        judged = [
            finalist.model_copy(update={"choice_loss": statistics.mean(look.losses)})
            for finalist, look in zip(self.finalists, looks, strict=True)
        ]
        best = judged[found.winner]
        alone = found.runner_up is None
        return Winner(
            **dict(self.searched),
            **best.model_dump(include={"description", "num_parameters", "selection_loss", "choice_loss"}),
            selection=best.selection,
            kept_channels=tuple(ordered.channels[channel] for channel in best.selection.hidden),
            kept_layers=tuple(layer.teacher_layer for layer in resolve(ordered, best.selection).layers),
            corrections=corrections_made(ordered, best.selection, self.space.compensation),
            proof=looks[found.winner].proof,
            choice_interval=found.interval,
            lead=None if alone else found.lead,
            lead_interval=None if alone else found.lead_interval,
            finalists=tuple(judged),
            finalist_tokens=self.training.schedule.tokens if self.training else 0,
            costs=self._costs(looks, found.winner, ordered),
        )

    def _costs(self, looks: Sequence["Look"], winner: int, ordered: OrderedTeacher) -> tuple[Cost, ...]:
        """Return the costs of comparing finalists, of correcting the winner, and of all proofs."""
        teacher, calibration = ordered.architecture, self.calibration.extent
        cuts = [resolve(ordered, finalist.selection) for finalist in self.finalists]
        corrections = [
            correction_cost(teacher, cut.architecture, _gaps(cut, teacher), self.space.compensation, calibration)
            for cut in cuts
        ]
        length, schedule = self.choice.length, self.training.schedule if self.training else None
        context = schedule.sequence_length if schedule else length
        comparing = choice_cost(
            [float(forward_flops_per_token(cut.architecture, context=length)) for cut in cuts],
            self.choice.extent,
            [3.0 * forward_flops_per_token(cut.architecture, context=context) for cut in cuts],
            schedule.num_tokens if schedule else 0,
            [correction for place, correction in enumerate(corrections) if place != winner],
        )
        proofs = [
            proof_cost(forward_of(cut.architecture), look.proof.probe_lengths)
            for cut, look in zip(cuts, looks, strict=True)
        ]
        return comparing.after(sum(look.seconds for look in looks)), corrections[winner], *proofs


class Look(Strict):
    """What a finalist is worth."""

    losses: list[float]
    """On every sequence of the choice, nats per token."""
    proof: Proof
    """Of its folder."""
    seconds: float


def _gaps(cut: Cut, teacher: Architecture) -> int:
    return len(gaps_of([layer.teacher_layer for layer in cut.layers], teacher.num_hidden_layers))


def _folder_of(finalist: Selection, work: Work) -> Path:
    return work.folder / f"cut-{canonical_key(finalist)}"


def _describe(selection: Selection, ranked: Architecture) -> dict[str, Any]:
    sizes = selection.architecture(ranked)
    return {"description": sizes.describe(), "num_parameters": num_parameters(sizes)}


def _history(records: Sequence[SearchRecord], fitness: str) -> pd.DataFrame:
    history = pd.DataFrame([record.to_dict() for record in records]).assign(fitness=fitness)
    if fitness != PERPLEXITY:
        history = history.drop(columns="perplexity")
    # Columns without any value have no type of their own.
    return history.astype({"flops_per_token": float, "latency_seconds": float})


def _log_epoch(strategy: Strategy, records: Sequence[SearchRecord], track: Track) -> None:
    epoch = records[-1].epoch
    newest = [record.loss for record in records if record.epoch == epoch and math.isfinite(record.loss)]
    metrics = {
        "epoch_median_loss": statistics.median(newest) if newest else math.nan,
        "evaluations": len(records),
        "tokens": sum(record.tokens for record in records),
        "flops": sum(record.flops for record in records),
        **strategy.metrics(),
    }
    track({f"search.{name}": value for name, value in metrics.items()}, epoch)
