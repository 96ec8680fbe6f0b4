"""The plan agrees with the ledger within a hundredth once it is given what nobody knows beforehand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, settings
from safetensors.torch import load_file

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation.settings import NEW_TOKENS, NUM_PROMPTS, PROMPT_TOKENS
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.plan.nodes import describe_study
from budwood.records.account import SearchFindings
from budwood.records.cost import Cost
from budwood.records.files import read_json_lines
from budwood.records.form import read_records
from budwood.records.teacher import TeacherRecord
from budwood.reporting.accelerator import ACCELERATORS
from budwood.search.candidate import Evaluation
from budwood.search.elimination import Kept, eliminate_layers
from budwood.search.genes import Genes
from budwood.study.costs import Extent, writing_cost
from budwood.study.forecast import Forecast
from budwood.study.plan import plan, search_costs
from budwood.study.planned import PlannedStudy
from budwood.study.teacher import importance_of
from budwood.subnet.compensate import gaps_of
from budwood.subnet.extract import Cut, resolve
from budwood.subnet.flops import solve_work
from budwood.subnet.ordering import OrderedTeacher, open_ordered

pytestmark = pytest.mark.slow

CPU = ACCELERATORS["cpu"]


@pytest.fixture(scope="module")
def data(finished: Path) -> Path:
    return finished / "data/smoke"


@pytest.fixture(scope="module")
def parameters(finished: Path) -> ProjectParameters:
    configure_project("budwood")
    loader = OmegaConfigLoader(str(finished / "conf"), env="smoke", **settings.CONFIG_LOADER_ARGS)
    return read_parameters(loader["parameters"])


@pytest.fixture(scope="module")
def teacher(data: Path) -> TeacherRecord:
    return read_records(data / "03_primary/teacher_record.json")


@pytest.fixture(scope="module")
def findings(data: Path) -> dict[tuple[str, str], SearchFindings]:
    found = [read_records(file) for file in data.glob("07_model_output/*/*/findings.json")]
    return {each.variant: each for each in found}


@pytest.fixture(scope="module")
def study(data: Path, parameters: ProjectParameters, teacher: TeacherRecord, findings) -> PlannedStudy:
    """Return the study with the winner of every search, and the trials of the elimination."""
    described = describe_study(parameters, CPU)
    forecasts = []
    for each in described.forecasts:
        winner = findings[each.variant].winner
        num_gaps = len(gaps_of(winner.kept_layers, teacher.architecture.num_hidden_layers))
        members = (winner.selection.architecture(teacher.architecture),)
        forecasts.append(replace(each, members=members, num_gaps=num_gaps))
    return replace(described, forecasts=tuple(forecasts), trials=calls(data, teacher))


def calls(data: Path, teacher: TeacherRecord) -> tuple[tuple[Kept, ...], ...]:
    """Return what the elimination tried, call by call."""
    (file,) = data.glob("02_intermediate/workspace/importance-*/trials.jsonl")
    known = {tuple(row.pop("kept")): Evaluation(**row) for row in read_json_lines(file)}
    asked: list[tuple[Kept, ...]] = []

    def answer(trials: Sequence[Kept]) -> list[Evaluation]:
        asked.append(tuple(trials))
        return [known[kept] for kept in trials]

    eliminate_layers(teacher.architecture.num_hidden_layers, answer)
    return tuple(asked)


@pytest.fixture(scope="module")
def spent(data: Path) -> pd.DataFrame:
    ledger = read_records(data / "07_model_output/ledger.json")
    return pd.DataFrame([cost.model_dump() for cost in ledger])


def sums(table: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Return what a stage costs, by variant."""
    return table[table["stage"] == stage].groupby(["bin", "space"])[["tokens", "flops"]].sum()


@pytest.mark.parametrize(
    "stage", ["calibration", "elimination", "compensation", "training", "teacher", "heldout", "gate"]
)
def test_a_stage_costs_what_was_planned(study: PlannedStudy, spent: pd.DataFrame, stage: str) -> None:
    planned, paid = sums(plan(study, CPU, 0.2), stage), sums(spent, stage)
    assert len(paid) > 0
    pd.testing.assert_frame_equal(planned, paid, check_dtype=False, rtol=1e-9)


def test_certificates_cost_what_was_planned_but_for_the_sizes_of_other_finalists(
    study: PlannedStudy, spent: pd.DataFrame
) -> None:
    """All finalists are proven, and planned as if they had the sizes of the winner."""
    planned, paid = sums(plan(study, CPU, 0.2), "certificate"), sums(spent, "certificate")
    assert planned["tokens"].tolist() == paid["tokens"].tolist()
    pd.testing.assert_frame_equal(planned, paid, check_dtype=False, rtol=0.01)


def gaps(cut: Cut, study: PlannedStudy) -> int:
    """Return the runs of dropped layers of a cut that follow a kept one."""
    return len(gaps_of([layer.teacher_layer for layer in cut.layers], study.teacher.num_hidden_layers))


def correcting(
    read: pd.DataFrame, kept: Genes, study: PlannedStudy, each: Forecast, ordered: OrderedTeacher
) -> list[Cost]:
    """Return what it costs to solve for every candidate each time that it reads."""
    if each.compensation is None or not study.search.compares_corrected:
        return []
    costs, stages = [], (*study.search.stages, study.conditions.measurement.selection)
    for evaluation, num_sequences in zip(read["evaluation"], read["num_sequences"], strict=True):
        cut = resolve(ordered, kept.read(evaluation))
        once = solve_work(study.teacher, cut.architecture, each.compensation, num_gaps=gaps(cut, study)).flops
        costs.append(Cost(stage="search", flops=once * sum(stage <= num_sequences for stage in stages), tokens=0))
    return costs


def test_a_search_costs_what_its_candidates_read(
    study: PlannedStudy, spent: pd.DataFrame, data: Path, parameters, findings
) -> None:
    """All candidates with their corrections and what the race let them read, and the choice by the finalists."""
    histories = pd.read_parquet(data / "07_model_output/histories.parquet")
    paid = sums(spent, "search")
    measurement = study.conditions.measurement
    length, texts = measurement.length, [study.text("calibration", n) for n in (None, measurement.num_refit)]
    importance = importance_of(load_file(data / "04_feature/importance.safetensors"))
    # Three coarse variants share one order, and its moments; a fine one has its own.
    gathered = plan(study, CPU, 0.2).query("stage == 'search' and space == ''")
    assert len(gathered) == 2
    pd.testing.assert_frame_equal(sums(gathered, "search"), paid.loc[[("", "")]], check_dtype=False)
    for each in study.forecasts:
        read = histories[(histories["bin"] == each.variant.bin) & (histories["space"] == each.variant.space)]
        found = findings[each.variant]
        compared, looked = found.winner.finalists, study.text("selection").num_tokens
        ordered = open_ordered(data / "03_primary/teacher", parameters.spaces[each.variant.space], importance)
        cuts = [resolve(ordered, finalist.selection) for finalist in compared]
        members = [cut.architecture for cut in cuts]
        finalists = replace(each, members=tuple(members), compensation=None)
        alone = replace(study, search=study.search.model_copy(update={"epochs": 0, "population": len(members)}))
        total, _ = search_costs(alone, finalists)
        losers = [
            replace(each, members=(cut.architecture,), num_gaps=gaps(cut, study)).correction(study.teacher, *texts)
            for finalist, cut in zip(compared, cuts, strict=True)
            if finalist.selection != found.winner.selection
        ]
        choice = {
            "tokens": total.tokens - len(members) * looked + sum(cost.tokens for cost in losers),
            "flops": total.flops - len(members) * looked * finalists.forward(length) + sum(c.flops for c in losers),
        }
        genes = Genes.open(data / "05_model_input" / each.variant.bin / each.variant.space / "genes")
        corrected = correcting(read, genes, study, each, ordered)
        flops = (read["tokens"] * read["flops_per_token"]).sum() + choice["flops"] + sum(c.flops for c in corrected)
        tokens = read["tokens"].sum() + choice["tokens"] + sum(cost.tokens for cost in corrected)
        assert tokens == paid.loc[each.variant, "tokens"], each.variant
        # Nobody knows beforehand which layers candidates share, which run once for all of them.
        assert 0.9 * flops < paid.loc[each.variant, "flops"] < 1.01 * flops, each.variant


def test_evaluation_costs_what_was_planned_beside_questions_and_samples(
    study: PlannedStudy, spent: pd.DataFrame, data: Path, teacher: TeacherRecord
) -> None:
    """Questions are counted by words beforehand; texts that models write may end early."""
    planned, paid = sums(plan(study, CPU, 0.2), "evaluation"), sums(spent, "evaluation")
    measurement, sources = study.conditions.measurement, study.num_sources["validation"]
    words = study.evaluation.question_tokens(sources)
    results = {
        each.variant: each for file in data.glob("07_model_output/*/*/results.json") for each in [read_records(file)]
    }
    for each in study.forecasts:
        asked = [task.cost for answers in results[each.variant].downstream for task in answers.tasks]
        scored, speed = results[each.variant].evaluation_costs, results[each.variant].efficiency
        forward = each.forward(measurement.length)
        # Foreign text is read by three arms, and by the sub-network before two of them are trained.
        foreign = study.num_sources["foreign"]
        known = Extent((3 * sources + 5 * foreign) * measurement.validation, measurement.length).num_tokens
        written = writing_cost(each.largest, PROMPT_TOKENS, *[[NEW_TOKENS] * NUM_PROMPTS] * 2)
        unknown = pd.Series({"tokens": words + written.tokens, "flops": words * forward + written.flops})
        rest = planned.loc[each.variant] - 3 * unknown
        read = paid.loc[each.variant, ["tokens", "flops"]] - [
            sum(cost.tokens for cost in asked),
            sum(cost.flops for cost in asked),
        ]
        samples = scored[-3:]
        assert all(0 < cost.tokens <= written.tokens for cost in samples)
        read -= [sum(cost.tokens for cost in samples), sum(cost.flops for cost in samples)]
        assert known + sum(each.tokens for each in speed) == read["tokens"] == rest["tokens"], each.variant
        assert rest["flops"] == pytest.approx(read["flops"], rel=0.01), each.variant
    once = Extent(
        sum(count * study.num_sources[split] for split, count in measurement.reported.items()), measurement.length
    )
    evaluation = read_records(data / "04_feature/teacher_evaluation.json")
    assert evaluation.costs[0].tokens == once.num_tokens
    assert evaluation.costs[0].flops == once.num_tokens * forward_flops_per_token(
        teacher.architecture, context=measurement.length
    )
