"""Models measured: losses on held-out text, tasks, and speed."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, ClassVar, NamedTuple, Self

import torch

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.split import FOREIGN
from budwood.evaluation.continuations import agreement, continue_prompts, distinct, heldout_prompts, repetition
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.harness import fingerprint_tasks, run_benchmarks
from budwood.evaluation.heldout import Questions, heldout_questions, read_texts
from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.perplexity import source_bytes, source_losses
from budwood.evaluation.settings import (
    CONTINUATION,
    COPY,
    HELDOUT_TASKS,
    LAST_WORD,
    PROMPT_TOKENS,
    RECALL,
    EvaluationSettings,
)
from budwood.evaluation.statistics import summarise
from budwood.evaluation.tasks import VERSION, check_benchmarks
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute, choose_compute
from budwood.models.losses import sequence_losses
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.teacher import HeldOutText, SourceLoss, TeacherEvaluation
from budwood.records.tracking import Track
from budwood.records.training import ProbeScore, Score, TrainingRecord
from budwood.study.costs import reading_cost, writing_cost
from budwood.study.settings import MeasurementSettings
from budwood.study.stage import NOT_DECIDING, Stage, Work
from budwood.study.text import Materials, Windows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateTeacher(Stage[TeacherEvaluation]):
    """Measure the teacher's loss on every split and source.

    Validation is measured on the sequences that the arms are; a few of every other split show that they are alike.
    """

    name: ClassVar[str] = "teacher_losses"

    teacher: Checkpoint
    tokens: PackedCorpus
    length: int
    reported: Mapping[str, int]
    """Sequences of every source, by split."""
    compute: Compute

    @classmethod
    def of(cls, materials: Materials) -> Self:
        """Declare the losses of a teacher."""
        return cls(
            teacher=materials.teacher,
            tokens=materials.tokens,
            length=materials.measurement.final_length,
            reported=materials.measurement.reported,
            compute=materials.compute,
        )

    def run(self, work: Work) -> TeacherEvaluation:
        """Measure."""
        started = time.perf_counter()
        tokenizer, length = self.teacher.load_tokenizer(), self.length
        num_bytes = {
            split: source_bytes(tokenizer, self.tokens, split, (length, count))
            for split, count in self.reported.items()
        }
        model = self.compute.place(self.teacher.load_model(self.compute.dtype))
        losses = {
            split: source_losses(model, self.tokens, split, (length, count), self.teacher.folder.name)
            for split, count in self.reported.items()
        }
        rows = [
            SourceLoss(
                split=split,
                source=source,
                tokens=len(values) * length,
                **summarise(values, num_bytes[split][source], length),
            )
            for split, by_source in losses.items()
            for source, values in by_source.items()
        ]
        flops = forward_flops_per_token(self.teacher.architecture, context=length)
        cost = Cost.of("evaluation", sum(row.tokens for row in rows), flops, time.perf_counter() - started)
        text = HeldOutText(tokens_per_sequence=length, bytes=num_bytes["validation"])
        return TeacherEvaluation(perplexity=tuple(rows), losses=losses["validation"], text=text, costs=(cost,))


def warn_of_guessing(losses: Sequence[SourceLoss], vocab_size: int) -> None:
    """Warn if a teacher's loss on all validation text is that of guessing: its weights or its tokenizer are wrong."""
    lowest = min((each.loss for each in losses if each.split == "validation"), default=math.nan)
    if not lowest < math.log(vocab_size):
        logger.warning(
            "The teacher's loss on validation text, %.3f nats, is no better than guessing one of its %s tokens, %.3f: "
            "compare its weights, its tokenizer and the language of the text",
            *(lowest, f"{vocab_size:,}", math.log(vocab_size)),
        )


class Scored(NamedTuple):
    """A run's losses on validation text, beside its training record."""

    score: Score
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class ScoreRun(Stage[Scored]):
    """Measure a trained model on the validation sequences of every source."""

    name: ClassVar[str] = "scores"

    run_name: str
    model: Checkpoint
    record: TrainingRecord
    tokens: PackedCorpus
    length: int
    validation: int
    compute: Compute
    start: Checkpoint | None = None
    """The checkpoint that the run began with; none where its weights were random."""

    @classmethod
    def of(
        cls,
        run_name: str,
        run: tuple[Checkpoint, TrainingRecord],
        tokens: PackedCorpus,
        measurement: MeasurementSettings,
        start: Checkpoint | None = None,
    ) -> Self:
        """Declare the losses of a trained model, whose run has a record."""
        return cls(
            run_name=run_name,
            model=run[0],
            record=run[1],
            tokens=tokens,
            length=measurement.final_length,
            validation=measurement.validation,
            compute=choose_compute(*measurement.hardware),
            start=start,
        )

    def run(self, work: Work) -> Scored:
        """Measure, on foreign text the start as well."""
        started = time.perf_counter()
        losses, foreign = (self._losses(self.model, split) for split in ("validation", FOREIGN))
        before = self._losses(self.start, FOREIGN) if self.start and foreign else {}
        parts = (losses, foreign, before)
        read = sum(len(values) for part in parts for values in part.values()) * self.length
        flops = forward_flops_per_token(self.model.architecture, context=self.length)
        score = Score(
            **dict(self.record),
            run=self.run_name,
            num_parameters=num_parameters(self.model.architecture),
            losses=losses,
            tokens_per_sequence=self.length,
            foreign=foreign,
            foreign_before=before,
        )
        return Scored(score, [Cost.of("evaluation", read, flops, time.perf_counter() - started)])

    def _losses(self, model: Checkpoint, split: str) -> dict[str, list[float]]:
        if not self.tokens.sources(split):
            return {}
        placed = self.compute.place(model.load_model(self.compute.dtype))
        return source_losses(placed, self.tokens, split, (self.length, self.validation), self.run_name)

    def report(self, result: Scored, work: Work) -> None:
        """Report the mean losses."""
        for name, losses in (("validation_loss", result.score.losses), ("foreign_loss", result.score.foreign)):
            if losses:
                work.track({name: fmean([loss for source in losses.values() for loss in source])}, self.record.steps)


@dataclass(frozen=True, kw_only=True)
class ScoreProbe(Stage[ProbeScore]):
    """Measure a probe on the text of the choice."""

    name: ClassVar[str] = "probe_scores"

    model: Checkpoint
    record: TrainingRecord
    choice: Windows
    compute: Compute
    batch_size: int

    def run(self, work: Work) -> ProbeScore:
        """Measure."""
        started = time.perf_counter()
        model = self.compute.place(self.model.load_model(self.compute.dtype))
        losses = sequence_losses(model, self.choice.read(), batch_size=self.batch_size, progress="probe on choice")
        looked = reading_cost("probe", self.model.architecture, self.choice.extent)
        return ProbeScore(
            **dict(self.record),
            num_parameters=num_parameters(self.model.architecture),
            losses=losses.tolist(),
            looked=looked.after(time.perf_counter() - started),
        )

    def report(self, result: ProbeScore, work: Work) -> None:
        """Report the mean loss."""
        work.track({"choice_loss": fmean(result.losses)}, self.record.steps)


def build_questions(tokens: PackedCorpus, teacher: Checkpoint, evaluation: EvaluationSettings) -> Questions:
    """Return the questions that are made from validation text, having checked that all other tasks are at hand.

    Sources take turns, so that the first questions of a task are of all of them.

    Raises:
        ValueError: a task is unknown or cannot be had, or a source has too little text.
    """
    check_benchmarks(evaluation)
    asked = {benchmark.task for benchmark in evaluation.benchmarks()} & set(HELDOUT_TASKS)
    if not asked:
        return {}
    texts = read_texts(tokens, teacher.load_tokenizer(), "validation")
    questions: Questions = {}
    for tasks, make in (({LAST_WORD, CONTINUATION}, heldout_questions), ({COPY, RECALL}, in_context_questions)):
        questions |= make(texts, evaluation.heldout) if asked & tasks else {}
    count = evaluation.heldout.questions
    return {task: [row for place in range(count) for row in rows[place::count]] for task, rows in questions.items()}


@dataclass(frozen=True, kw_only=True)
class AskModel(Stage[Downstream]):
    """Ask a model all questions of the chosen tasks."""

    name: ClassVar[str] = "tasks"

    model_name: str
    model: Checkpoint
    bos_token_id: int | None
    """Begins every request, as it begins the sequences of the corpus."""
    harness: str = VERSION
    compute: Compute
    folder: Path = field(metadata=NOT_DECIDING)
    """Of the questions."""
    evaluation: EvaluationSettings = field(metadata=NOT_DECIDING)

    def facts(self) -> dict[str, Any]:
        """Return what decides the answers: the questions, and of the settings what is asked."""
        asked = {"tasks": list(self.evaluation.tasks), "limit": self.evaluation.limit}
        return super().facts() | asked | {"questions": fingerprint_tasks(self.folder, self.evaluation.include_path)}

    def run(self, work: Work) -> Downstream:
        """Ask; a killed run continues with the first task that it has not finished."""
        answers = run_benchmarks(
            self.model.folder,
            self.folder,
            self.evaluation,
            self.compute,
            work.folder,
            bos_token_id=self.bos_token_id,
        )
        return answers.model_copy(update={"model": self.model_name})

    def report(self, result: Downstream, work: Work) -> None:
        """Report every metric."""
        for task in result.tasks:
            # MLflow takes no comma, which separates a metric of the harness from its filter.
            values = {name.replace(",", "/"): metric.value for name, metric in task.metrics.items()}
            work.track({f"{task.task}.{name}": value for name, value in values.items()}, 0)


class Written(NamedTuple):
    """What a model writes."""

    samples: list[Sample]
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class ContinuePrompts(Stage[Written]):
    """Let a model continue the beginnings of held-out documents, and count how it writes."""

    name: ClassVar[str] = "samples"

    model_name: str
    model: Checkpoint
    tokens: PackedCorpus
    teacher: tuple[Sample, ...] = ()
    """What the teacher writes; none where the model is the teacher."""
    compute: Compute

    def run(self, work: Work) -> Written:
        """Write, always the likeliest token, and compare with what the teacher writes."""
        started, tokens = time.perf_counter(), self.tokens
        tokenizer = self.model.load_tokenizer()
        prompts = heldout_prompts(read_texts(tokens, tokenizer, "validation"), tokenizer)
        model = self.compute.place(self.model.load_model(self.compute.dtype))
        rows, bos, eos = list(prompts.values()), tokens.bos_token_id, tokens.eos_token_id
        written = continue_prompts(model, rows, eos_token_id=eos, bos_token_id=bos) if rows else []
        agreed: list[float | None] = [None] * len(rows)
        if self.teacher and rows:
            assert [sample.prompt for sample in self.teacher] == list(prompts), "the teacher continued other prompts"
            agreed = [*agreement(model, rows, [sample.ids for sample in self.teacher], bos_token_id=bos)]
        samples = [
            Sample(
                model=self.model_name,
                prompt=prompt,
                text=str(tokenizer.decode(ids, skip_special_tokens=True)),
                ids=tuple(ids),
                agreement=share,
                repetition=repetition(ids),
                distinct=distinct(ids),
            )
            for prompt, ids, share in zip(prompts, written, agreed, strict=True)
        ]
        return Written(samples, [self._cost(written).after(time.perf_counter() - started)])

    def _cost(self, written: Sequence[Sequence[int]]) -> Cost:
        first = PROMPT_TOKENS + (self.tokens.bos_token_id is not None)
        compared = [len(sample.ids) for sample in self.teacher]
        return writing_cost(self.model.architecture, first, [len(ids) for ids in written], compared)

    def report(self, result: Written, work: Work) -> None:
        """Report the means."""
        if not result.samples:
            return
        means = {name: [getattr(sample, name) for sample in result.samples] for name in ("repetition", "distinct")}
        agreed = [sample.agreement for sample in result.samples if sample.agreement is not None]
        means |= {"agreement": agreed} if agreed else {}
        work.track({f"written.{name}": fmean(values) for name, values in means.items()}, 0)


@torch.no_grad()
def measure_speed(
    models: Mapping[str, Checkpoint], evaluation: EvaluationSettings, compute: Compute, track: Track
) -> list[Efficiency]:
    """Return latency and memory of some models, in turns, as one record; none where it is not wanted.

    A measurement of time is never taken from an earlier run.

    Args:
        models: by name; `subnet` is among them.
        evaluation: what is timed.
        compute: device and precision.
        track: receives the medians of `subnet`.
    """
    if evaluation.efficiency is None:
        return []
    subjects = {
        name: Subject(compute.place(model.load_model(compute.dtype)), model.architecture)
        for name, model in models.items()
    }
    record = measure_efficiency(subjects, evaluation.efficiency, compute)
    own = record.models["subnet"]
    times = {"prefill_seconds": own.prefill_seconds, "decode_seconds": own.decode_seconds}
    track({f"subnet.{name}": median(seconds) for name, seconds in times.items()}, 0)
    return [record]
