"""The teacher: taken in, and its components ranked."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from torch import Tensor

from budwood.arch.count import num_parameters
from budwood.corpus.tokenization import fingerprint_tokenizer, num_ids
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import FetchedTeacher, fetch_teacher
from budwood.records.cost import Cost
from budwood.records.locks import holding
from budwood.records.teacher import IntakeRecord, TeacherRecord
from budwood.study.costs import stream_cost
from budwood.study.results import PARTS, restore, save
from budwood.study.source import code_hash
from budwood.study.stage import Stage, Work, Workspace
from budwood.study.text import Materials, Windows
from budwood.subnet.elimination import leave_layers_out
from budwood.subnet.importance import Importance, importance_in
from budwood.subnet.intake import verify_teacher
from budwood.subnet.moments import teacher_stream
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

SCORES, TRIALS = "scores", "trials.jsonl"
"""In the work folder of a ranking: what its pass has found, and the trials of its elimination."""


class Ranked(NamedTuple):
    """The importance of a teacher's components, and what it cost to find."""

    importance: dict[str, Tensor]
    """`budwood.subnet.importance.Importance` as tensors; empty where nothing was measured."""
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class RankComponents(Stage[Ranked]):
    """Score what layers are made of in one pass over calibration text, then leave layers out one by one."""

    name: ClassVar[str] = "importance"

    teacher: Checkpoint
    calibration: Windows
    elimination: int
    """The most of these sequences on which layers are left out; 0: layers are not left out."""
    compute: Compute
    batch_size: int

    @classmethod
    def of(cls, materials: Materials, *, eliminates: bool) -> Self:
        """Declare the ranking of a teacher's components; `eliminates`: layers are left out one by one."""
        measurement = materials.measurement
        return cls(
            teacher=materials.teacher,
            calibration=materials.windows("calibration"),
            elimination=measurement.elimination if eliminates else 0,
            compute=materials.compute,
            batch_size=measurement.batch_size,
        )

    def run(self, work: Work) -> Ranked:
        """Measure; a killed run continues after its pass, or after the last trial of its elimination."""
        windows = self.calibration.read()
        if not self.elimination:
            return self._score(windows)
        folder = work.folder / SCORES
        if not (folder / PARTS).is_file():
            folder.mkdir(exist_ok=True)
            save(self._score(windows), folder)
        scored = restore(Ranked, folder)
        started = time.perf_counter()
        found = leave_layers_out(
            self.teacher.folder,
            windows[: self.elimination],
            self.compute,
            batch_size=self.batch_size,
            trials_file=work.folder / TRIALS,
        )
        importance = replace(Importance.from_tensors(scored.importance), eliminated=found.order)
        cost = Cost(stage="elimination", flops=found.flops, tokens=found.tokens)
        return Ranked(importance.to_tensors(), [*scored.costs, cost.after(time.perf_counter() - started)])

    def _score(self, windows: Tensor) -> Ranked:
        """Score what layers are made of, in one pass."""
        started, architecture = time.perf_counter(), self.teacher.architecture
        text = windows[:, :-1]
        whole = open_ordered(self.teacher.folder, Ordering(ordering="native")).on(self.compute, self.compute.dtype)
        importance = importance_in(teacher_stream(whole, text.split(self.batch_size)), architecture)
        cost = stream_cost("calibration", architecture, self.calibration.extent)
        return Ranked(importance.to_tensors(), [cost.after(time.perf_counter() - started)])


def fetch_source(settings: TeacherSettings, workspace: Workspace, root: Path) -> FetchedTeacher:
    """Return a teacher's checkpoint, converted again only where its source has changed.

    Raises:
        ValueError: it cannot be fetched, or is of an unsupported kind.
    """
    source = settings.model_dump(mode="json", exclude={"architecture", "vocabulary", "license", "attribution"})
    folder = workspace.claim("teacher", {"source": source, "code": code_hash(fetch_teacher.__module__)})
    with holding(folder, "teacher"):
        return fetch_teacher(settings, folder, root)


def fetch_further(
    settings: TeacherSettings, own: Checkpoint, sequence_length: int, workspace: Workspace, root: Path
) -> Checkpoint:
    """Return a teacher beside the study's own, which reads the same tokens.

    Raises:
        ValueError: it cannot be fetched, is of an unsupported kind, sees less than a sequence, or has other tokens.
    """
    fetched = fetch_source(settings, workspace, root)
    further = fetched.checkpoint
    further.check_lengths({"schedule.sequence_length": sequence_length})
    if fingerprint_tokenizer(further.load_tokenizer()) != fingerprint_tokenizer(own.load_tokenizer()):
        raise ValueError(
            f"{fetched.name} has another tokenizer than the study's teacher: name a teacher of the same tokenizer "
            "(its embedding may have more rows)"
        )
    teacher_record(fetched, settings, workspace)
    return further


def importance_of(tensors: dict[str, Tensor]) -> Importance | None:
    """Return the importance that a stage has measured; None where it measured nothing."""
    return Importance.from_tensors(tensors) if tensors else None


@dataclass(frozen=True, kw_only=True)
class VerifyTeacher(Stage[IntakeRecord]):
    """Compare plain transformers, our reading of the files, and the whole cut, on a few real tokens."""

    name: ClassVar[str] = "intake"

    teacher: Checkpoint

    def run(self, work: Work) -> IntakeRecord:
        """Compare.

        Raises:
            ValueError: they do not give the same logits.
        """
        return verify_teacher(self.teacher, self.teacher.load_tokenizer())


def teacher_record(fetched: FetchedTeacher, settings: TeacherSettings, workspace: Workspace) -> TeacherRecord:
    """Return what a teacher is, after all ways of reading it have given the same logits.

    Raises:
        ValueError: it is not what the settings say it is, or cannot be cut.
    """
    teacher = fetched.checkpoint
    stated = settings.architecture.architecture() if settings.architecture else teacher.architecture
    if settings.vocabulary is not None:
        stated = replace(stated, vocab_size=settings.vocabulary)
    if stated != teacher.architecture:
        raise ValueError(
            f"teacher.architecture: {fetched.name} is {teacher.architecture.describe()}, vocabulary "
            f"{teacher.architecture.vocab_size:,}; stated is {stated.describe()}, vocabulary {stated.vocab_size:,}"
        )
    return TeacherRecord(
        name=fetched.name,
        revision=fetched.revision,
        model_type=str(teacher.config["model_type"]),
        num_parameters=num_parameters(teacher.architecture),
        fingerprint=teacher.fingerprint,
        license=settings.license,
        attribution=settings.attribution,
        num_token_ids=min(num_ids(teacher.load_tokenizer()), teacher.architecture.vocab_size),
        architecture=teacher.architecture,
        intake=workspace.finish(VerifyTeacher(teacher=teacher)),
    )
