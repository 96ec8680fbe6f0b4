"""Measure the arms of a variant, and gather all variants."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import choose_compute
from budwood.parameters import ProjectParameters
from budwood.pipelines.tracking import finish_in, open_workspace, track
from budwood.pipelines.wiring import from_root
from budwood.records.account import SearchFindings, TrainingFindings
from budwood.records.certificate import Certificate
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.names import FROM_SUBNET, Variant
from budwood.records.search import Finalists, Winner
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.records.training import ProbeScore, Score, TrainingRecord
from budwood.study.account import ledger
from budwood.study.evaluation import AskModel, ContinuePrompts, ScoreRun, measure_speed
from budwood.study.export import CertifyTrained, measured_of, read_certificate, text_sources
from budwood.study.settings import Conditions
from budwood.study.text import Windows


def ask_models(
    tokens: PackedCorpus,
    heldout_tasks: Path,
    evaluation: EvaluationSettings,
    conditions: Conditions,
    workspace: Path,
    *models: Checkpoint,
    names: Sequence[str],
) -> list[Downstream]:
    """Return what some models answer, with the cost; requests begin as the sequences of the text do."""
    answers = []
    for name, model in zip(names, models, strict=True):
        stage = AskModel(
            model_name=name,
            model=model,
            bos_token_id=tokens.bos_token_id,
            compute=choose_compute(*conditions.measurement.hardware),
            folder=heldout_tasks,
            evaluation=evaluation,
        )
        answers.append(finish_in(name, stage, workspace))
    return answers


def time_models(
    evaluation: EvaluationSettings, conditions: Conditions, *models: Checkpoint, names: Sequence[str]
) -> list[Efficiency]:
    """Return latency and memory of some models, in turns, as one record; none where it is not wanted.

    All arms have the sub-network's architecture, and so its speed.
    """
    measurement = conditions.measurement
    compute = choose_compute(*measurement.hardware)
    return measure_speed(dict(zip(names, models, strict=True)), evaluation, compute, track)


def continue_texts(
    tokens: PackedCorpus,
    conditions: Conditions,
    workspace: Path,
    teacher_samples: list[Sample],
    *models: Checkpoint,
    names: Sequence[str],
) -> tuple[list[Sample], list[Cost]]:
    """Return how some models continue the beginnings of held-out documents beside their teacher, and what that cost."""
    compute = choose_compute(*conditions.measurement.hardware)
    samples, costs = [], []
    for name, model in zip(names, models, strict=True):
        stage = ContinuePrompts(
            model_name=name, model=model, tokens=tokens, teacher=tuple(teacher_samples), compute=compute
        )
        written = finish_in(name, stage, workspace)
        samples += written.samples
        costs += written.costs
    return samples, costs


def continue_teacher(
    tokens: PackedCorpus, conditions: Conditions, workspace: Path, teacher: Checkpoint
) -> tuple[list[Sample], list[Cost]]:
    """Return how the teacher continues the beginnings of held-out documents, and what that cost."""
    return continue_texts(tokens, conditions, workspace, [], teacher, names=["teacher"])


def score_runs(
    tokens: PackedCorpus,
    conditions: Conditions,
    workspace: Path,
    subnet: Checkpoint,
    *runs: Checkpoint | TrainingRecord,
    names: Sequence[str],
) -> tuple[list[Score], list[Cost]]:
    """Return every run's validation losses by source and sequence beside its training record, and the cost.

    Args:
        tokens: the text.
        conditions: how much of it is read, and where models run.
        workspace: keeps the losses.
        subnet: with which some runs began.
        runs: the checkpoints of all runs, then their records.
        names: of the runs.
    """
    scores, costs = [], []
    for name, model, record in zip(names, runs, runs[len(names) :], strict=False):
        assert isinstance(model, Checkpoint), "checkpoints come first"
        assert isinstance(record, TrainingRecord), "then records"
        start = subnet if record.arm in FROM_SUBNET else None
        stage = ScoreRun.of(name, (model, record), tokens, conditions.measurement, start)
        scored = finish_in(name, stage, workspace)
        scores.append(scored.score.model_copy(update={"folder": from_root(model.folder)}))
        costs += scored.costs
    return scores, costs


def certify_arms(
    tokens: PackedCorpus,
    teacher_record: TeacherRecord,
    study: ProjectParameters,
    workspace: Path,
    scores: list[Score],
    downstream: list[Downstream],
    *models: Checkpoint,
    names: Sequence[str],
) -> list[Certificate]:
    """Return the certificates of trained sub-networks; their folders get them too, with card and check.

    Args:
        tokens: the text.
        teacher_record: what they were cut from.
        study: the sources of the text, how much of it is read, and in which forms models are written and tried.
        workspace: keeps what was found.
        scores: of all runs.
        downstream: what all arms answer.
        models: what was trained, with its certificate; then the trained sub-networks, of the first seed.
        names: of their arms.
    """
    runs, answers = ({score.run: score for score in scores}, {each.model: each for each in downstream})
    certificates = []
    for name, model in zip(names, models[1:], strict=True):
        stage = CertifyTrained(
            model=model,
            record=runs[name].record,
            subnet=read_certificate(models[0].folder),
            proven_on=Windows.searched(tokens, "choice", study.measurement),
            teacher_record=teacher_record,
            sources=text_sources(study.corpus),
            measured=measured_of(runs[name], answers[name]),
            serving=study.serving,
        )
        certificates.append(open_workspace(workspace).finish(stage))
    return certificates


def collect_findings(
    winner: Winner,
    finalists: Finalists,
    certificate: Certificate,
    calibration_costs: list[Cost],
    probe: ProbeScore | None = None,
    *,
    variant: Variant,
) -> SearchFindings:
    """Return what the search of a variant found and cost, and its probe."""
    return SearchFindings(
        **variant._asdict(),
        winner=winner.charged(finalists, calibration_costs).at(variant),
        finalists=finalists,
        certificate=certificate,
        probe=probe,
    )


def collect_results(
    scores: list[Score],
    downstream: list[Downstream],
    efficiency: list[Efficiency],
    samples: list[Sample],
    certificates: list[Certificate],
    *costs: Any,
    variant: Variant,
) -> TrainingFindings:
    """Return what was trained of a variant, and how it was measured, under the space that probes chose.

    Args:
        scores: of all runs.
        downstream: what all arms answer.
        efficiency: how fast they are.
        samples: what they write.
        certificates: of the trained sub-networks.
        costs: lists of what measuring cost; where probes chose the space, the table of their choice comes last.
        variant: the variant.
    """
    where, spent = _placed(variant, costs)
    engines = {each.training.arm: each.engines for each in certificates if each.training is not None}
    return TrainingFindings(
        **where._asdict(),
        scores=tuple(
            score.model_copy(update=where._asdict() | {"engines": engines.get(score.run, ())}) for score in scores
        ),
        downstream=tuple(answers.at(where) for answers in downstream),
        efficiency=tuple(speed.at(where) for speed in efficiency),
        evaluation_costs=tuple(cost for each in spent for cost in each),
        samples=tuple(sample.at(where) for sample in samples),
        certificates=tuple(certificates),
    )


def _placed(variant: Variant, parts: Sequence[Any]) -> tuple[Variant, Sequence[Any]]:
    """Return the variant, in the space that probes chose where the last part is their choice, and all other parts."""
    last = parts[-1]
    if isinstance(last, pd.DataFrame) and "chosen" in last:
        return Variant(variant.bin, str(last["space"].iloc[0])), parts[:-1]
    return variant, parts


def join_curves(scores: list[Score], *curves: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """Return the curves of all runs of a variant, with the arm and the seed of each.

    Args:
        scores: of the runs.
        curves: of the runs; where probes chose the space, the table of their choice comes last.
        variant: the variant.
    """
    where, own = _placed(variant, curves)
    tables: list[pd.DataFrame] = [
        curve.assign(arm=score.arm, seed=score.seed, **where._asdict())
        for score, curve in zip(scores, own, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def gather_histories(*histories: pd.DataFrame, variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the histories of all searches, with the variant of each; losses by sequence stay in those of variants."""
    named = [
        history.drop(columns="sequence_losses").assign(**variant._asdict())
        for history, variant in zip(histories, variants, strict=True)
    ]
    return pd.concat(named, ignore_index=True)


def gather_curves(*curves: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of all runs."""
    return pd.concat(curves, ignore_index=True)


def gather_findings(*findings: SearchFindings) -> tuple[list[Winner], pd.DataFrame]:
    """Return the winners of all searches, and what their certificates say in short."""
    ordered = sorted(findings, key=lambda found: found.variant)
    certificates = pd.DataFrame([found.variant._asdict() | found.certificate.summary() for found in ordered])
    return [found.winner for found in ordered], certificates


def gather_results(
    teacher_downstream: list[Downstream], teacher_samples: list[Sample], *results: TrainingFindings
) -> tuple[list[Score], list[Downstream], list[Efficiency], list[Sample]]:
    """Return the scores of all arms, what they and the teacher answer and write, and how fast models are."""
    ordered = sorted(results, key=lambda result: result.variant)
    scores = list(chain.from_iterable(result.scores for result in ordered))
    answers = [*teacher_downstream, *chain.from_iterable(result.downstream for result in ordered)]
    samples = [*teacher_samples, *chain.from_iterable(result.samples for result in ordered)]
    return scores, answers, list(chain.from_iterable(result.efficiency for result in ordered)), samples


def write_ledger(
    calibration_costs: list[Cost],
    teacher_evaluation: TeacherEvaluation,
    teacher_downstream: list[Downstream],
    curves: pd.DataFrame,
    *parts: SearchFindings | TrainingFindings | list[Cost],
) -> list[Cost]:
    """Return all costs of the study."""
    asked = [task.cost for answers in teacher_downstream for task in answers.tasks]
    cached = [cost for part in parts if isinstance(part, list) for cost in part]
    findings = [part for part in parts if isinstance(part, SearchFindings)]
    results = [part for part in parts if isinstance(part, TrainingFindings)]
    return ledger([*calibration_costs, *teacher_evaluation.costs, *cached, *asked], findings, results, curves)
