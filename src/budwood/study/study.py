"""A study as a Python object: the stages that the pipelines run, a call each, with defaults that work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from budwood.arch.selection import Selection
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.corpus.tokenization import fingerprint_tokenizer
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.checkpoint import Checkpoint, own_weights
from budwood.models.settings import TeacherSettings
from budwood.models.vocabulary import num_dropped_ids
from budwood.records.certificate import Certificate
from budwood.records.names import Variant
from budwood.records.search import Finalist, Searched, Winner
from budwood.records.strict import naming
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.reporting.accelerator import ACCELERATORS, AcceleratorName
from budwood.search.genes import Genes
from budwood.search.settings import SearchSettings
from budwood.study.arguments import as_checkpoint, require_choice, require_class, require_kind, searched_bins
from budwood.study.choice import BriefTraining, ChooseWinner
from budwood.study.defaults import ARM_SETTINGS, LEARNING_RATE, MFU, RANDOM_LEARNING_RATE, SCHEDULE, SEARCH, SPACE
from budwood.study.evaluation import EvaluateTeacher
from budwood.study.export import CertifyTrained, ExportSubnet, measured_loss, text_sources
from budwood.study.forecast import forecast
from budwood.study.plan import plan
from budwood.study.planned import PlannedStudy
from budwood.study.search import EvolveSubnets, describe
from budwood.study.settings import BinSettings, Conditions, MeasurementSettings, ProtocolSettings
from budwood.study.sizes import narrowed, within
from budwood.study.space import require_members
from budwood.study.stage import Workspace
from budwood.study.teacher import RankComponents, Ranked, importance_of
from budwood.study.text import Materials
from budwood.study.training import CacheTeacher, Start, TrainArm, Trained
from budwood.subnet.compensate import cut_out
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering, SpaceSettings
from budwood.training.settings import ArmSettings, DistillationSettings, Engine, RateSweep, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A sub-network as a folder that plain transformers opens, with its certificate."""

    checkpoint: Checkpoint
    certificate: Certificate
    winner: Winner
    """What is kept of the teacher, its losses, and what it cost."""
    history: pd.DataFrame | None = None
    """All candidates of its search; None where it was chosen by hand."""
    genes: Genes | None = None
    """What each of them keeps, by `evaluation` of the history."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A teacher, text in its tokens, and a folder that keeps everything; see `open_study`.

    Every method that works raises `FolderInUseError` where another process is doing the same work.
    """

    teacher: Checkpoint
    source: TeacherSettings
    """Where the teacher came from."""
    record: TeacherRecord
    tokens: PackedCorpus
    corpus: CorpusSettings
    measurement: MeasurementSettings
    engine: Engine
    workspace: Workspace

    @property
    def materials(self) -> Materials:
        """What all stages work with."""
        return Materials(self.teacher, self.tokens, self.measurement)

    @cached_property
    def ranked(self) -> Ranked:
        """What one pass over calibration text and leaving layers out one by one found, and what it cost."""
        return self._rank(eliminates=True)

    @property
    def importance(self) -> Importance:
        """The importance of every component of the teacher; `eliminated` are its layers, the first to go first."""
        return Importance.from_tensors(self.ranked.importance)

    def ordered(self, ordering: Ordering = SPACE) -> OrderedTeacher:
        """Return the teacher with its best components first, its weights on disk."""
        return open_ordered(self.teacher.folder, ordering, importance_of(self._needed(ordering).importance))

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
        """Return the best of every axis by sizes, the same in all layers; where none is given, the teacher's.

        For other choices make a `Selection` of indices into the ordered teacher: 0 is the best of every axis.

        Args:
            hidden_size: channels of the residual stream.
            num_hidden_layers: layers.
            num_key_value_heads: key/value heads.
            num_attention_heads: query heads, a multiple of the former; as many to each as the teacher has without.
            head_dim: dimensions of a head, an even number.
            intermediate_size: neurons.

        Raises:
            ValueError: the teacher has fewer, or a size is not allowed; the message names the argument.
        """
        whole = self.teacher.architecture
        # Only where the teacher's layers differ does it matter which of them are best.
        specs = whole.layers if whole.is_uniform else self.ordered().ranked.layers
        depth = within("num_hidden_layers", num_hidden_layers, len(specs))
        sizes = (num_key_value_heads, num_attention_heads, head_dim, intermediate_size)
        layers = tuple(narrowed(rank, specs[rank], sizes) for rank in range(depth))
        return Selection(hidden=range(within("hidden_size", hidden_size, whole.hidden_size)), layers=layers)

    def activate(self, selection: Selection, space: SpaceSettings = SPACE) -> PreTrainedModel:
        """Return a sub-network as a dense model in memory, corrected as the space says.

        It maps token ids [N, T] to logits [N, T, vocabulary], as the folder does that `extract` writes.

        Raises:
            TypeError: an argument is of another type.
            ValueError: an index is out of range.
        """
        ordered = self._within(selection, space)
        read = [each.read()[:, :-1] for each in (self.materials.windows("calibration"), self.materials.refitting)]
        ordered, batch_size = ordered.on(self.materials.compute), self.measurement.batch_size
        parts = cut_out(ordered, selection, read[0], space.compensation, read[1], batch_size=batch_size)
        return own_weights(parts.assemble())

    def extract(self, selection: Selection, space: SpaceSettings = SPACE) -> Subnet:
        """Write a sub-network as a checkpoint folder with its certificate.

        Raises:
            TypeError: an argument is of another type.
            ValueError: an index is out of range, or the folder does not compute what the sub-network does in memory.
        """
        described = describe(selection, self._within(selection, space).ranked)
        chosen, count = Finalist(**dict(described), selection_loss=float("nan")), described.num_parameters
        unsearched = Searched(fitness="none", parameter_bin=(count, count + 1), num_evaluations=0, paper_flops=0.0)
        return self._export((chosen,), unsearched, space, None)

    def search(
        self,
        bins: Mapping[str, float | BinSettings],
        *,
        space: SpaceSettings = SPACE,
        settings: SearchSettings = SEARCH,
        schedule: Schedule = SCHEDULE,
    ) -> dict[str, Subnet]:
        """Search the best sub-network of every bin and export it.

        Args:
            bins: by name: a share of the teacher's parameters up to 1, their number, or `BinSettings`.
            space: what is searched, and how it is cut.
            settings: how.
            schedule: how finalists are trained, where the settings give them tokens.

        Returns:
            the winners, by the names of the bins. The study's `track` gets the metrics of a bin with its name in front,
            such as `half.search.best_loss`.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a bin cannot be reached, or settings do not fit text, space or machine; before any work.
        """
        typed = searched_bins(bins, space, settings, schedule)
        settings.race(self.measurement.selection)
        space.require_scored_by(settings.fitness)
        teacher = self.teacher.architecture
        for name, bin_ in typed.items():
            with naming(f"bins[{name!r}]"):
                require_members(teacher, bin_.parameter_bin(teacher), space)
            BriefTraining.of(settings.finalist_tokens, self._conditions(schedule).within(bin_))
        return {name: self._search(name, bin_, space, settings, schedule) for name, bin_ in typed.items()}

    def pretrain(
        self,
        start: Checkpoint | str | Path,
        *,
        random: bool = False,
        schedule: Schedule = SCHEDULE,
        learning_rate: float | RateSweep | None = None,
    ) -> Trained:
        """Train a checkpoint with the plain language-modelling loss.

        Args:
            start: gives the weights: a checkpoint or its folder.
            random: train its architecture from random weights instead.
            schedule: how long, and in which portions.
            learning_rate: peak, or short runs that choose it; 3e-4 without one, and 3e-3 for random weights.

        Raises:
            ValueError: there is too little text, its sequences are too long for the model, or the model has another
                tokenizer than the teacher.
        """
        default = RANDOM_LEARNING_RATE if random else LEARNING_RATE
        arm = ArmSettings(learning_rate=default if learning_rate is None else learning_rate)
        begin = Start(initialisation="random" if random else "checkpoint", checkpoint=as_checkpoint("start", start))
        return self.workspace.finish(self._training("pretrained", begin, arm, schedule))

    def distill(
        self,
        start: Checkpoint | str | Path,
        *,
        schedule: Schedule = SCHEDULE,
        learning_rate: float | RateSweep = LEARNING_RATE,
        settings: DistillationSettings | None = None,
    ) -> Trained:
        """Train a checkpoint towards the teacher's distribution and the text.

        Args:
            start: gives the weights: a checkpoint or its folder.
            schedule: how long, and in which portions.
            learning_rate: peak, or short runs that choose it; the default suits the default schedule.
            settings: the loss, and whether the teacher answers beside the student or is asked once beforehand.

        Raises:
            ValueError: text is short, its sequences are too long for a model, or the models' tokenizers differ.
        """
        settings = DistillationSettings() if settings is None else settings
        require_class("settings", settings, DistillationSettings)
        arm = ArmSettings(learning_rate=learning_rate, distillation=settings)
        begin = Start(initialisation="checkpoint", checkpoint=as_checkpoint("start", start))
        run = self._training("distilled", begin, arm, schedule)
        if settings.teacher == "cached":
            asked = CacheTeacher.of(self.materials, settings, schedule)
            run = replace(run, cache=self.workspace.finish(asked).cache)
        return self.workspace.finish(run)

    def certify(self, trained: Trained, subnet: Subnet) -> Certificate:
        """Put card, certificate and check beside a trained sub-network, as an export has them.

        Args:
            trained: what `pretrain` or `distill` returned.
            subnet: what it was trained from.

        Raises:
            ValueError: it was trained from something else, or plain transformers computes something else with it.
        """
        require_class("trained", trained, Trained)
        require_class("subnet", subnet, Subnet)
        start = trained.record.made_with.start
        if start != subnet.checkpoint.fingerprint:
            raise ValueError(
                f"subnet={subnet.checkpoint.folder} is not what was trained: its fingerprint is "
                f"{subnet.checkpoint.fingerprint}, and the training began with {start}"
            )
        last = float(trained.curve["heldout_loss"].dropna().iloc[-1])
        stage = CertifyTrained(
            model=trained.model,
            record=trained.record,
            subnet=subnet.certificate,
            proven_on=self.materials.windows("choice"),
            teacher_record=self.record,
            sources=text_sources(self.corpus),
            measured=[measured_loss(last, "held-out text", trained.record.tokens)],
        )
        return self.workspace.finish(stage)

    def evaluate(self, model: Checkpoint | str | Path | None = None) -> TeacherEvaluation:
        """Return a model's losses on every split and source, in nats per token and bits per byte.

        Args:
            model: a checkpoint, or its folder, with the teacher's tokenizer; the teacher itself without one.

        Raises:
            ValueError: it has another.
        """
        model = self.teacher if model is None else as_checkpoint("model", model)
        self._require_tokenizer("model", model)
        return self.workspace.finish(EvaluateTeacher.of(replace(self.materials, teacher=model)))

    def plan(
        self,
        bins: Mapping[str, float | BinSettings],
        *,
        space: SpaceSettings = SPACE,
        settings: SearchSettings = SEARCH,
        schedule: Schedule = SCHEDULE,
        accelerator: AcceleratorName = "cpu",
    ) -> pd.DataFrame:
        """Return what a search of every bin and the training of all its arms will cost.

        Args:
            bins: as `search` takes them.
            space: what is searched, and how it is cut.
            settings: of the search.
            schedule: of every arm.
            accelerator: runs it, at a fifth of its peak.

        Returns:
            a row for every stage, bin and arm; see `budwood.reporting.quote.PlanRow`.

        Raises:
            TypeError: an argument is of another type.
            ValueError: a bin cannot be reached, or the accelerator is unknown.
        """
        teacher, typed = self.teacher.architecture, searched_bins(bins, space, settings, schedule)
        require_choice("accelerator", accelerator, ACCELERATORS)
        planned = PlannedStudy(
            teacher=teacher,
            teacher_bytes_per_parameter=self.source.bytes_per_parameter,
            forecasts=tuple(forecast(teacher, Variant(name, "space"), bin_, space) for name, bin_ in typed.items()),
            search=settings,
            conditions=self._conditions(schedule),
            bins={name: self._conditions(schedule).within(bin_) for name, bin_ in typed.items()},
            evaluation=EvaluationSettings(tasks=(), efficiency=None),
            num_sources={split: self.corpus.num_sources(split) for split in self.measurement.reported},
            precision=self.materials.compute.precision,
            num_dropped_ids=num_dropped_ids(self.teacher.folder),
            needs_statistics=space.needs_statistics,
            needs_elimination=space.needs_elimination,
        )
        return plan(planned, ACCELERATORS[accelerator], MFU)

    def _within(self, selection: Selection, space: SpaceSettings) -> OrderedTeacher:
        require_kind("selection", selection, Selection, "a Selection, such as `select` returns")
        require_class("space", space, SpaceSettings)
        ordered = self.ordered(space)
        selection.require_within(ordered.ranked)
        return ordered

    def _rank(self, *, eliminates: bool) -> Ranked:
        return self.workspace.finish(RankComponents.of(self.materials, eliminates=eliminates))

    def _needed(self, ordering: Ordering, search: SearchSettings | None = None) -> Ranked:
        """Return what an order, or a search, needs of the importance; nothing is measured for none of it."""
        if ordering.needs_elimination:
            return self.ranked
        scored = ordering.needs_statistics or (search is not None and search.needs_statistics)
        return self._rank(eliminates=False) if scored else Ranked({}, [])

    def _conditions(self, schedule: Schedule) -> Conditions:
        require_class("schedule", schedule, Schedule)
        return Conditions(
            measurement=self.measurement,
            protocol=ProtocolSettings(),
            schedule=schedule,
            arms=ARM_SETTINGS,
            engine=self.engine,
        )

    def _search(
        self, name: str, bin_: BinSettings, space: SpaceSettings, settings: SearchSettings, schedule: Schedule
    ) -> Subnet:
        ranked = self._needed(space, settings)
        stage = EvolveSubnets.of(self.materials, ranked.importance, bin_, space, settings)

        def tracked(metrics: Mapping[str, float], step: int) -> None:
            self.workspace.track({f"{name}.{metric}": value for metric, value in metrics.items()}, step)

        found = replace(self.workspace, track=tracked).finish(stage)
        best = found.finalists
        training = BriefTraining.of(settings.finalist_tokens, self._conditions(schedule).within(bin_))
        exported = self._export(best.candidates[: settings.num_finalists], best.searched, space, training)
        winner = exported.winner.charged(best, ranked.costs)
        return replace(exported, winner=winner, history=found.history, genes=found.genes)

    def _export(
        self, finalists: tuple[Finalist, ...], searched: Searched, space: SpaceSettings, training: BriefTraining | None
    ) -> Subnet:
        choice = ChooseWinner.of(self.materials, self._needed(space).importance, finalists, searched, space, training)
        chosen = self.workspace.finish(choice)
        export = ExportSubnet(
            cut=chosen.cut,
            teacher_record=self.record,
            corpus_fingerprint=self.tokens.fingerprint,
            winner=chosen.winner,
            space=space,
            sources=text_sources(self.corpus),
        )
        checkpoint, certificate = self.workspace.finish(export)
        return Subnet(checkpoint=checkpoint, certificate=certificate, winner=chosen.winner)

    def _require_tokenizer(self, argument: str, model: Checkpoint) -> None:
        if fingerprint_tokenizer(model.load_tokenizer()) != self.tokens.tokenizer_fingerprint:
            raise ValueError(f"{argument}={model.folder} has another tokenizer than {self.teacher.folder}, its teacher")

    def _training(self, arm: str, begin: Start, settings: ArmSettings, schedule: Schedule) -> TrainArm:
        assert begin.checkpoint is not None
        self._require_tokenizer("start", begin.checkpoint)
        return TrainArm.of(arm, begin, (self.teacher, self.tokens), self._conditions(schedule), settings)
