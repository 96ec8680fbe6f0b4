"""The study as a Python object: the stages that the pipelines run, a call each, with defaults that work.

Everything is kept in one folder: a call that was interrupted continues, and one that was made before answers at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel

from budwood.arch.count import num_parameters
from budwood.arch.selection import LayerSelection, Selection
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute, choose_compute
from budwood.models.settings import TeacherSettings
from budwood.records.certificate import Certificate
from budwood.records.names import Variant, require_names
from budwood.records.search import Finalist, Finalists, Searched, Winner
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.reporting.accelerator import ACCELERATORS
from budwood.search.settings import SearchSettings
from budwood.study.evaluation import EvaluateTeacher
from budwood.study.export import ExportSubnet, text_sources
from budwood.study.forecast import forecast
from budwood.study.plan import Study as Planned
from budwood.study.plan import plan
from budwood.study.search import BriefTraining, ChooseWinner, EvolveSubnets
from budwood.study.settings import BinSettings, Conditions, MeasurementSettings, ProtocolSettings
from budwood.study.stage import Track, Workspace, no_tracking
from budwood.study.teacher import RankComponents, fetch_source, importance_of, teacher_record
from budwood.study.text import PackText, Windows, require_text
from budwood.study.training import Start, TrainArm, Trained
from budwood.subnet.compensate import cut_out
from budwood.subnet.extract import own_weights
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule

SPLITS = {"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05}
"""Shares of a text whose division is not given."""
MEASUREMENT = MeasurementSettings(
    length=256, calibration=16, elimination=2, selection=6, choice=4, validation=6, heldout=4
)
SEARCH = SearchSettings(
    population=7, epochs=2, num_elites=4, num_mutants=3, num_crossovers=2, num_randoms=2, num_finalists=2
)
SPACE = SpaceSettings(layerwise=False, alignment=16, compensation=Compensation())
SCHEDULE = Schedule.model_validate({"preset": "quickstart"})
"""Small enough for two processor cores; see the quickstart."""
_LEARNING_RATE, _RANDOM_LEARNING_RATE = 3e-4, 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A sub-network as a folder that plain transformers opens, with its certificate."""

    checkpoint: Checkpoint
    certificate: Certificate
    winner: Winner
    """What is kept of the teacher, its losses, and what it cost."""
    history: pd.DataFrame | None = None
    """All candidates of its search; None where it was chosen by hand."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A teacher, text in its tokens, and a folder that keeps everything; see `open_study`."""

    teacher: Checkpoint
    record: TeacherRecord
    tokens: PackedCorpus
    corpus: CorpusSettings
    measurement: MeasurementSettings
    workspace: Workspace

    @cached_property
    def compute(self) -> Compute:
        """Device and precision of this machine."""
        return choose_compute(self.measurement.device, self.measurement.precision)

    @cached_property
    def importance(self) -> Importance:
        """The importance of every component of the teacher on calibration text, layers left out one by one."""
        return Importance.from_tensors(self._ranked(self.measurement.elimination))

    def _ranked(self, elimination: int) -> dict[str, Any]:
        stage = RankComponents(
            teacher=self.teacher,
            calibration=self._windows("calibration"),
            elimination=elimination,
            compute=self.compute,
            batch_size=self.measurement.batch_size,
        )
        return self.workspace.finish(stage).importance

    def _importance(self, space: SpaceSettings, search: SearchSettings | None = None) -> dict[str, Any]:
        """Return what a space, or a search in it, needs of the importance; nothing is measured for none of it."""
        if space.needs_statistics or (search is not None and search.needs_statistics):
            return self._ranked(self.measurement.elimination if space.needs_elimination else 0)
        return {}

    def select(
        self,
        *,
        hidden_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_key_value_heads: int | None = None,
        num_attention_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int | None = None,
    ) -> Selection:
        """Return the best-ranked components of every axis, by sizes; those of the teacher where none is given.

        Raises:
            ValueError: the teacher has fewer, or heads do not divide among key/value heads; the message names the
                argument.
        """
        whole = self.teacher.architecture
        ranked = self.ordered().ranked
        depth = _within("num_hidden_layers", num_hidden_layers, whole.num_hidden_layers)
        layers = []
        for rank in range(depth):
            spec = ranked.layers[rank]
            groups = _within("num_key_value_heads", num_key_value_heads, spec.num_key_value_heads)
            heads = _within("num_attention_heads", num_attention_heads, groups * spec.heads_per_group)
            if heads % groups:
                raise ValueError(f"num_attention_heads={heads} must be a multiple of num_key_value_heads={groups}")
            dims = _within("head_dim", head_dim, spec.head_dim)
            if dims % 2:
                raise ValueError(f"head_dim={dims} must be even: rotary embeddings turn pairs")
            neurons = _within("intermediate_size", intermediate_size, spec.intermediate_size)
            layers.append(
                LayerSelection(
                    layer=rank,
                    groups=range(groups),
                    queries=range(heads // groups),
                    pairs=range(dims // 2),
                    neurons=range(neurons),
                )
            )
        channels = _within("hidden_size", hidden_size, whole.hidden_size)
        return Selection(hidden=range(channels), layers=tuple(layers))

    def ordered(self, space: SpaceSettings = SPACE) -> OrderedTeacher:
        """Return the teacher with its best components first."""
        return open_ordered(self.teacher.folder, space, importance_of(self._importance(space)))

    def activate(self, selection: Selection, space: SpaceSettings = SPACE) -> PreTrainedModel:
        """Return a sub-network as a dense model in memory, corrected as the space says.

        Raises:
            ValueError: an index is out of range.
        """
        ordered = self.ordered(space)
        selection.require_within(ordered.ranked)
        windows = self._windows("calibration").read()[:, :-1]
        batch_size = self.measurement.batch_size
        return own_weights(cut_out(ordered, selection, windows, space.compensation, batch_size=batch_size))

    def extract(self, selection: Selection, space: SpaceSettings = SPACE) -> Subnet:
        """Write a sub-network as a checkpoint folder with its certificate.

        Raises:
            ValueError: an index is out of range, or the folder does not compute what the sub-network does in memory.
        """
        ranked = self.ordered(space).ranked
        selection.require_within(ranked)
        sizes = selection.architecture(ranked)
        count = num_parameters(sizes)
        finalist = Finalist(
            selection=selection, description=sizes.describe(), num_parameters=count, selection_loss=float("nan")
        )
        chosen = Searched(fitness="none", parameter_bin=(count, count + 1), num_evaluations=0, paper_flops=0.0)
        return self._export((finalist,), chosen, space, None)

    def search(
        self,
        bins: Mapping[str, float | BinSettings],
        *,
        space: SpaceSettings = SPACE,
        settings: SearchSettings = SEARCH,
    ) -> dict[str, Subnet]:
        """Search the best sub-network of every bin and export it.

        Args:
            bins: by name: a share of the teacher's parameters, or `BinSettings`.
            space: what is searched, and how it is cut.
            settings: how.

        Returns:
            the winners, by the names of the bins.

        Raises:
            ValueError: a bin cannot be reached, or a setting does not fit the text.
        """
        require_names("bins", bins)
        found = {}
        for name, bin_ in bins.items():
            stage = EvolveSubnets(
                teacher=self.teacher,
                importance=self._importance(space, settings),
                selection=self._windows("selection"),
                bin_=bin_ if isinstance(bin_, BinSettings) else BinSettings(fraction=bin_),
                space=space.without_corrections(),
                search=settings.alone(),
                compute=self.compute,
                batch_size=self.measurement.batch_size,
            )
            result = self.workspace.finish(stage)
            finalists = result.finalists.candidates[: settings.num_finalists]
            training = BriefTraining.of(settings.finalist_tokens, self.conditions())
            subnet = self._export(finalists, result.finalists, space, training)
            found[name] = replace(subnet, history=result.history)
        return found

    def pretrain(
        self,
        start: Checkpoint,
        *,
        random: bool = False,
        schedule: Schedule = SCHEDULE,
        learning_rate: float | None = None,
    ) -> Trained:
        """Train a checkpoint with the plain language-modelling loss.

        Args:
            start: gives the weights.
            random: train its architecture from random weights instead.
            schedule: how long, and in which portions.
            learning_rate: peak; without one, 3e-4 for weights and 3e-3 for random ones.
        """
        rate = learning_rate or (_RANDOM_LEARNING_RATE if random else _LEARNING_RATE)
        return self._train("pretrained", start, ArmSettings(learning_rate=rate), schedule, random=random)

    def distill(
        self,
        start: Checkpoint,
        *,
        schedule: Schedule = SCHEDULE,
        learning_rate: float = _LEARNING_RATE,
        settings: DistillationSettings | None = None,
    ) -> Trained:
        """Train a checkpoint towards the teacher's distribution and the text."""
        arm = ArmSettings(learning_rate=learning_rate, distillation=settings or DistillationSettings())
        return self._train("distilled", start, arm, schedule, random=False)

    def evaluate(self, model: Checkpoint | None = None) -> TeacherEvaluation:
        """Return a model's losses on every split and source, in nats per token and bits per byte.

        Args:
            model: has the teacher's tokenizer; the teacher itself without one.
        """
        measurement = self.measurement
        stage = EvaluateTeacher(
            teacher=model or self.teacher,
            tokens=self.tokens,
            length=measurement.length,
            reported=measurement.reported,
            compute=self.compute,
        )
        return self.workspace.finish(stage).evaluation

    def plan(
        self,
        bins: Mapping[str, float | BinSettings],
        *,
        space: SpaceSettings = SPACE,
        settings: SearchSettings = SEARCH,
        schedule: Schedule = SCHEDULE,
    ) -> pd.DataFrame:
        """Return what a search of every bin and the training of all arms will cost; see `budwood.study.plan.plan`."""
        typed = {name: b if isinstance(b, BinSettings) else BinSettings(fraction=b) for name, b in bins.items()}
        teacher = self.teacher.architecture
        splits = [source.splits for source in self.corpus.sources.values()]
        planned = Planned(
            teacher=teacher,
            teacher_bytes_per_parameter=4,
            forecasts=tuple(forecast(teacher, Variant(name, "space"), bin_, space) for name, bin_ in typed.items()),
            search=settings,
            conditions=self.conditions(schedule),
            evaluation=EvaluationSettings(tasks=(), efficiency=None),
            num_sources={split: sum(shares.get(split, 0) > 0 for shares in splits) for split in SPLITS},
            precision=self.compute.precision,
            needs_statistics=space.needs_statistics,
            needs_elimination=space.needs_elimination,
        )
        return plan(planned, ACCELERATORS["cpu"], 0.2)

    def conditions(self, schedule: Schedule = SCHEDULE) -> Conditions:
        """Return how everything is measured and trained."""
        weights, random = ArmSettings(learning_rate=_LEARNING_RATE), ArmSettings(learning_rate=_RANDOM_LEARNING_RATE)
        taught = ArmSettings(learning_rate=_LEARNING_RATE, distillation=DistillationSettings())
        arms = Arms(random_init=random, reference_init=random, subnet_init=weights, distilled=taught)
        return Conditions(
            measurement=self.measurement, protocol=ProtocolSettings(), schedule=schedule, arms=arms, engine=Engine()
        )

    def _windows(self, split: str) -> Windows:
        return Windows.searched(self.tokens, split, self.measurement)

    def _train(
        self, arm: str, start: Checkpoint, settings: ArmSettings, schedule: Schedule, *, random: bool
    ) -> Trained:
        require_text(self.tokens, self.measurement, schedule)
        begin = Start(initialisation="random" if random else "checkpoint", checkpoint=start)
        materials = self.teacher, self.tokens
        return self.workspace.finish(TrainArm.with_settings(arm, begin, materials, settings, self.conditions(schedule)))

    def _export(
        self,
        finalists: tuple[Finalist, ...],
        searched: Searched | Finalists,
        space: SpaceSettings,
        training: BriefTraining | None,
    ) -> Subnet:
        choice = ChooseWinner(
            teacher=self.teacher,
            importance=self._importance(space),
            calibration=self._windows("calibration"),
            choice=self._windows("choice"),
            finalists=finalists,
            space=space,
            training=training,
            compute=self.compute,
            batch_size=self.measurement.batch_size,
            searched=searched,
        )
        chosen = self.workspace.finish(choice)
        export = ExportSubnet(
            cut=chosen.cut,
            teacher_record=self.record,
            corpus_fingerprint=self.tokens.fingerprint,
            winner=chosen.winner,
            space=space,
            sources=text_sources(self.corpus),
        )
        exported = self.workspace.finish(export)
        return Subnet(checkpoint=exported.subnet, certificate=exported.certificate, winner=chosen.winner)


def open_study(
    teacher: str | TeacherSettings,
    texts: Mapping[str, str | Mapping[str, Any]],
    *,
    folder: str | Path = "budwood-study",
    measurement: MeasurementSettings = MEASUREMENT,
    track: Track = no_tracking,
) -> Study:
    """Open a study: fetch the teacher and pack the text in its tokens.

    Args:
        teacher: a hub id, a checkpoint folder, a GGUF file, `package://<import name>/<file>`, or `TeacherSettings`.
        texts: sources by name: a path, or the fields of `budwood.corpus.settings.SourceSettings`. Where `splits` is not
            given, a text is divided as `SPLITS` says.
        folder: keeps everything, for later calls too.
        measurement: how much text is measured on, and where models run.
        track: called with metrics and a step while searches and trainings run.

    Raises:
        ValueError: the teacher cannot be fetched, a text cannot be read, or there is too little of it.
    """
    workspace, root = Workspace(folder=Path(folder).expanduser().resolve(), track=track), Path.cwd()
    settings = teacher if isinstance(teacher, TeacherSettings) else TeacherSettings(model=teacher)
    sources = {name: {"path": text} if isinstance(text, str) else dict(text) for name, text in texts.items()}
    corpus = CorpusSettings.model_validate({"sources": {n: {"splits": SPLITS} | each for n, each in sources.items()}})
    fetched = fetch_source(settings, workspace, root)
    fetched.checkpoint.check_lengths(measurement.length)
    tokens = workspace.finish(PackText.of(fetched.checkpoint, corpus, root)).tokens
    return Study(
        teacher=fetched.checkpoint,
        record=teacher_record(fetched, settings, workspace),
        tokens=tokens,
        corpus=corpus,
        measurement=measurement,
        workspace=workspace,
    )


def _within(name: str, wanted: int | None, most: int) -> int:
    if wanted is None:
        return most
    if not 0 < wanted <= most:
        raise ValueError(f"{name}={wanted} must be between 1 and the teacher's {most}")
    return wanted
