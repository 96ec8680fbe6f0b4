"""Models measured: losses on held-out text, tasks, and speed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import ClassVar

import torch

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.continuations import continue_prompts, heldout_prompts
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.harness import VERSION, check_benchmarks, run_benchmarks
from budwood.evaluation.heldout import heldout_questions, read_texts
from budwood.evaluation.perplexity import source_bytes, source_losses
from budwood.evaluation.settings import HELDOUT_TASKS, EvaluationSettings
from budwood.evaluation.statistics import summarise
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.teacher import HeldOutText, SourceLoss, TeacherEvaluation
from budwood.records.training import ProbeScore, Score, TrainingRecord
from budwood.study.costs import reading_cost
from budwood.study.stage import NOT_DECIDING, Stage, Track, Work
from budwood.study.text import Windows

Questions = dict[str, list[dict[str, object]]]


@dataclass(frozen=True, slots=True)
class TeacherMeasured:
    """The teacher's losses."""

    evaluation: TeacherEvaluation


@dataclass(frozen=True, kw_only=True)
class EvaluateTeacher(Stage[TeacherMeasured]):
    """Measure the teacher's loss on every split and source.

    Validation is measured on the sequences that the arms are; a few of every other split show that they are alike.
    """

    name: ClassVar[str] = "teacher_losses"
    result: ClassVar[type] = TeacherMeasured

    teacher: Checkpoint
    tokens: PackedCorpus
    length: int
    reported: Mapping[str, int]
    """Sequences of every source, by split."""
    compute: Compute

    def run(self, work: Work) -> TeacherMeasured:
        """Measure."""
        del work
        started = time.perf_counter()
        tokenizer, length = self.teacher.load_tokenizer(), self.length
        num_bytes = {
            split: source_bytes(tokenizer, self.tokens, split, (length, count))
            for split, count in self.reported.items()
        }
        model = self.compute.place(self.teacher.load_model(self.compute.dtype))
        losses = {
            split: source_losses(model, self.tokens, split, (length, count), "teacher")
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
        evaluation = TeacherEvaluation(perplexity=tuple(rows), losses=losses["validation"], text=text, costs=(cost,))
        return TeacherMeasured(evaluation)


@dataclass(frozen=True, slots=True)
class Scored:
    """A run's losses on validation text, beside its training record."""

    score: Score
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class ScoreRun(Stage[Scored]):
    """Measure a trained model on the validation sequences of every source."""

    name: ClassVar[str] = "scores"
    result: ClassVar[type] = Scored

    run_name: str
    model: Checkpoint
    record: TrainingRecord
    tokens: PackedCorpus
    length: int
    validation: int
    compute: Compute

    def run(self, work: Work) -> Scored:
        """Measure."""
        started = time.perf_counter()
        model = self.compute.place(self.model.load_model(self.compute.dtype))
        losses = source_losses(model, self.tokens, "validation", (self.length, self.validation), self.run_name)
        read = sum(map(len, losses.values())) * self.length
        flops = forward_flops_per_token(self.model.architecture, context=self.length)
        score = Score(
            **self.record.model_dump(exclude={"made_with"}),
            made_with=self.record.made_with,
            run=self.run_name,
            num_parameters=num_parameters(self.model.architecture),
            losses=losses,
            tokens_per_sequence=self.length,
        )
        result = Scored(score, [Cost.of("evaluation", read, flops, time.perf_counter() - started)])
        self.replay(result, work)
        return result

    def replay(self, result: Scored, work: Work) -> None:
        """Report the mean loss."""
        losses = [loss for source in result.score.losses.values() for loss in source]
        work.track({"validation_loss": fmean(losses)}, self.record.steps)


@dataclass(frozen=True, slots=True)
class ProbeScored:
    """A probe's losses on the text of the choice."""

    score: ProbeScore


@dataclass(frozen=True, kw_only=True)
class ScoreProbe(Stage[ProbeScored]):
    """Measure a probe on the text of the choice."""

    name: ClassVar[str] = "probe_scores"
    result: ClassVar[type] = ProbeScored

    model: Checkpoint
    record: TrainingRecord
    choice: Windows
    compute: Compute
    batch_size: int

    def run(self, work: Work) -> ProbeScored:
        """Measure."""
        started = time.perf_counter()
        model = self.compute.place(self.model.load_model(self.compute.dtype))
        losses = sequence_losses(model, self.choice.read(), batch_size=self.batch_size, progress="probe on choice")
        looked = reading_cost("probe", self.model.architecture, self.choice.extent)
        result = ProbeScored(
            ProbeScore(
                **self.record.model_dump(exclude={"made_with"}),
                made_with=self.record.made_with,
                num_parameters=num_parameters(self.model.architecture),
                losses=losses.tolist(),
                looked=looked.after(time.perf_counter() - started),
            )
        )
        self.replay(result, work)
        return result

    def replay(self, result: ProbeScored, work: Work) -> None:
        """Report the mean loss."""
        work.track({"choice_loss": fmean(result.score.losses)}, self.record.steps)


def build_questions(tokens: PackedCorpus, teacher: Checkpoint, evaluation: EvaluationSettings) -> Questions:
    """Return the questions that are made from validation text, having checked that all other tasks are at hand.

    Raises:
        ValueError: a task is unknown or cannot be had, or a source holds too little text.
    """
    check_benchmarks(evaluation)
    if not {benchmark.task for benchmark in evaluation.benchmarks()} & set(HELDOUT_TASKS):
        return {}
    return heldout_questions(read_texts(tokens, teacher.load_tokenizer(), "validation"), evaluation.heldout)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model answers."""

    downstream: Downstream


@dataclass(frozen=True, kw_only=True)
class AskModel(Stage[Answered]):
    """Ask a model all questions of the chosen tasks."""

    name: ClassVar[str] = "tasks"
    result: ClassVar[type] = Answered

    model_name: str
    model: Checkpoint
    questions: str
    """Fingerprint of those that are made from held-out text, and of tasks of the user's own."""
    tasks: tuple[str, ...]
    limit: int | None
    bos_token_id: int | None
    """Begins every request, as it begins the sequences of the corpus."""
    harness: str = VERSION
    compute: Compute
    folder: Path = field(metadata=NOT_DECIDING)
    """Of the questions."""
    evaluation: EvaluationSettings = field(metadata=NOT_DECIDING)

    def run(self, work: Work) -> Answered:
        """Ask; a killed run continues with the first task that it has not finished."""
        record = run_benchmarks(
            self.model.folder,
            self.folder,
            self.evaluation,
            self.compute,
            work.folder,
            bos_token_id=self.bos_token_id,
        )
        result = Answered(Downstream.model_validate({"model": self.model_name} | record))
        self.replay(result, work)
        return result

    def replay(self, result: Answered, work: Work) -> None:
        """Report every metric."""
        for task in result.downstream.tasks:
            # MLflow takes no comma, which separates a metric of the harness from its filter.
            values = {name.replace(",", "/"): metric.value for name, metric in task.metrics.items()}
            work.track({f"{task.task}.{name}": value for name, value in values.items()}, 0)


@dataclass(frozen=True, slots=True)
class Written:
    """What a model writes."""

    samples: list[Sample]
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class ContinuePrompts(Stage[Written]):
    """Let a model continue the beginnings of held-out documents, for people to read."""

    name: ClassVar[str] = "samples"
    result: ClassVar[type] = Written

    model_name: str
    model: Checkpoint
    tokens: PackedCorpus
    compute: Compute

    def run(self, work: Work) -> Written:
        """Write, always the likeliest token."""
        del work
        started = time.perf_counter()
        tokenizer, architecture = self.model.load_tokenizer(), self.model.architecture
        prompts = heldout_prompts(read_texts(self.tokens, tokenizer, "validation"))
        model = self.compute.place(self.model.load_model(self.compute.dtype))
        written = continue_prompts(model, tokenizer, prompts, bos_token_id=self.tokens.bos_token_id)
        flops = sum(each.flops(architecture) for each in written)
        cost = Cost(stage="evaluation", tokens=sum(each.num_tokens for each in written), flops=float(flops))
        samples = [Sample(model=self.model_name, prompt=each.prompt, text=each.text) for each in written]
        return Written(samples, [cost.after(time.perf_counter() - started)])


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
    record = Efficiency.model_validate(measure_efficiency(subjects, evaluation.efficiency, compute))
    own = record.models["subnet"]
    track({"subnet.prefill_seconds": median(own.prefill_seconds)}, 0)
    track({"subnet.decode_seconds": median(own.decode_seconds)}, 0)
    return [record]
