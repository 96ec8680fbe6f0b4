"""The choice of a winner among the finalists of a search."""

import logging
import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.bins import ParameterBin
from budwood.arch.selection import Selection
from budwood.models.certificate import prove
from budwood.models.checkpoint import Checkpoint, load_model
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.records.certificate import Proof
from budwood.records.cost import Cost
from budwood.records.files import append_json_lines, read_json_lines
from budwood.records.search import Finalist, Searched, Winner
from budwood.records.strict import Strict
from budwood.search.candidate import canonical_key
from budwood.search.choice import Choice, choose
from budwood.study.costs import Correction, choice_cost, forward_of, proof_cost
from budwood.study.devices import require_devices
from budwood.study.settings import Conditions
from budwood.study.stage import NOT_DECIDING, Stage, Work, no_tracking
from budwood.study.teacher import importance_of
from budwood.study.text import Materials, Windows
from budwood.study.training import Start, TrainArm
from budwood.subnet.compensate import corrections_made, cut_out, gaps_of, write_cut
from budwood.subnet.extract import resolve
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import SpaceSettings
from budwood.training.launch import run_job
from budwood.training.run import MODEL
from budwood.training.settings import ArmSettings, Engine, Schedule

LOOKS = "looks.jsonl"

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
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
    def of(cls, tokens: int, conditions: Conditions) -> Self | None:
        """Return how finalists are trained on some tokens; None for no tokens.

        Raises:
            ValueError: the engine has a launcher, and this machine no accelerator.
        """
        if not tokens:
            return None
        require_devices(conditions.engine, conditions.measurement)
        schedule = conditions.schedule
        return cls(
            schedule=schedule.brief(tokens),
            learning_rate=conditions.arms.finalist_rate(schedule),
            heldout=conditions.measurement.heldout,
            engine=conditions.engine,
        )


@dataclass(frozen=True, kw_only=True)
class ChooseWinner(Stage[Chosen]):
    """Cut all finalists as they are exported, perhaps train them briefly, and compare them on text of their own."""

    name: ClassVar[str] = "choice"

    teacher: Checkpoint
    importance: dict[str, Tensor]
    calibration: Windows
    refitting: Windows
    choice: Windows
    finalists: tuple[Finalist, ...]
    space: SpaceSettings
    training: BriefTraining | None
    compute: Compute
    batch_size: int
    searched: Searched
    """The winner carries its facts."""

    @classmethod
    def of(
        cls,
        materials: Materials,
        importance: dict[str, Tensor],
        finalists: tuple[Finalist, ...],
        searched: Searched,
        space: SpaceSettings,
        training: BriefTraining | None,
    ) -> Self:
        """Declare the choice among the finalists of a search."""
        return cls(
            teacher=materials.teacher,
            importance=importance if space.needs_statistics else {},
            calibration=materials.windows("calibration"),
            refitting=materials.refitting,
            choice=materials.windows("choice"),
            finalists=finalists,
            space=space,
            training=training,
            compute=materials.compute,
            batch_size=materials.measurement.batch_size,
            searched=searched,
        )

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
        calibration, refitting = (each.read()[:, :-1] for each in (self.calibration, self.refitting))
        settings, text = self.space.compensation, self.choice.read()[0]
        child = cut_out(ordered, finalist, calibration, settings, refitting, batch_size=self.batch_size)
        cut, expected = write_cut(child, self.teacher.folder, _folder_of(finalist, work), text, self.compute.device)
        proof = prove(expected, cut, child.architecture, ParameterBin(*self.searched.parameter_bin), text)
        model = self._train(cut, work) if self.training else load_model(cut, self.compute.dtype)
        if model is None:
            losses = [math.nan] * self.choice.count
        else:
            placed = self.compute.place(model)
            losses = sequence_losses(placed, self.choice.read(), batch_size=self.batch_size).tolist()
        return Look(losses=losses, proof=proof, seconds=perf_counter() - started)

    def _train(self, cut: Path, work: Work) -> PreTrainedModel | None:
        """Return a finalist after its training; None where that diverges."""
        assert self.training is not None, "only called where finalists are trained"
        arm = TrainArm(
            arm="finalist",
            start=Start(initialisation="checkpoint", checkpoint=Checkpoint.open(cut)),
            settings=ArmSettings(),
            schedule=self.training.schedule,
            tokens=self.choice.tokens,
            heldout=self.training.heldout,
            teacher=self.teacher,
            compute=self.compute,
            engine=self.training.engine,
        )
        job = arm.job(work.folder / f"{cut.name}-trained", self.training.learning_rate)
        try:
            run_job(job, no_tracking, {})
        except FloatingPointError as error:
            logger.warning("A finalist is given up: %s", error)
            return None
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
            **best.model_dump(include={"description", "num_parameters", "selection_loss", "choice_loss", "taken"}),
            selection=best.selection,
            kept_channels=tuple(ordered.channels[channel] for channel in best.selection.hidden),
            kept_layers=resolve(ordered, best.selection).kept_layers,
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
        teacher = ordered.architecture
        cuts = [resolve(ordered, finalist.selection) for finalist in self.finalists]
        corrections = [
            Correction(
                teacher=teacher,
                child=cut.architecture,
                num_gaps=len(gaps_of(cut.kept_layers, teacher.num_hidden_layers)),
                settings=self.space.compensation,
                calibration=self.calibration.extent,
                refitting=self.refitting.extent,
            ).cost()
            for cut in cuts
        ]
        comparing = choice_cost(
            [forward_of(cut.architecture) for cut in cuts],
            self.choice.extent,
            [correction for place, correction in enumerate(corrections) if place != winner],
            (self.training.schedule, self.training.heldout) if self.training else None,
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


def _folder_of(finalist: Selection, work: Work) -> Path:
    return work.folder / f"cut-{canonical_key(finalist)}"
