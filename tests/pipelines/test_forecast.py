"""The plan agrees with the ledger within a hundredth once it is given what nobody knows beforehand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, settings

from budwood.arch.count import forward_flops_per_token
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.plan.nodes import describe_study
from budwood.records.account import SearchFindings
from budwood.records.cost import Cost
from budwood.records.files import read_json_lines
from budwood.records.form import read_records
from budwood.records.teacher import TeacherRecord
from budwood.reporting.accelerator import ACCELERATORS
from budwood.study.costs import Extent
from budwood.study.plan import PlannedStudy, plan, search_costs

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
        forecasts.append(replace(each, members=(winner.selection.architecture(teacher.architecture),)))
    (trials,) = data.glob("02_intermediate/workspace/importance-*/trials.jsonl")
    kept = tuple(len(row["kept"]) for row in read_json_lines(trials))
    return replace(described, forecasts=tuple(forecasts), trials=kept)


@pytest.fixture(scope="module")
def spent(data: Path) -> pd.DataFrame:
    ledger = read_records(data / "07_model_output/ledger.json")
    return pd.DataFrame([cost.model_dump() for cost in ledger])


def sums(table: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Return what a stage costs, by variant."""
    return table[table["stage"] == stage].groupby(["bin", "space"])[["tokens", "flops"]].sum()


@pytest.mark.parametrize("stage", ["calibration", "elimination", "training", "teacher", "heldout"])
def test_a_stage_costs_what_was_planned(study: PlannedStudy, spent: pd.DataFrame, stage: str) -> None:
    planned, paid = sums(plan(study, CPU, 0.2), stage), sums(spent, stage)
    assert len(paid) > 0
    pd.testing.assert_frame_equal(planned, paid, check_dtype=False, rtol=1e-9)


def test_corrections_cost_what_was_planned(study: PlannedStudy, spent: pd.DataFrame) -> None:
    """But for how dropped layers lie: the plan takes each of them for a gap of its own."""
    planned, paid = sums(plan(study, CPU, 0.2), "compensation"), sums(spent, "compensation")
    assert planned["tokens"].tolist() == paid["tokens"].tolist()
    assert planned["flops"].to_numpy() == pytest.approx(paid["flops"].to_numpy(), rel=0.01)


def test_a_search_costs_what_its_candidates_read(
    study: PlannedStudy, spent: pd.DataFrame, data: Path, teacher, findings
) -> None:
    """The evaluations by all candidates and the tokens that the race let them read, the choice by the finalists."""
    histories = pd.read_parquet(data / "07_model_output/histories.parquet")
    paid = sums(spent, "search")
    length = study.conditions.measurement.length
    for each in study.forecasts:
        read = histories[(histories["bin"] == each.variant.bin) & (histories["space"] == each.variant.space)]
        found = findings[each.variant]
        compared = tuple(finalist.selection.architecture(teacher.architecture) for finalist in found.winner.finalists)
        finalists = replace(each, members=compared)
        alone = replace(study, search=study.search.model_copy(update={"epochs": 0, "population": len(compared)}))
        total, _ = search_costs(alone, finalists)
        evaluated = Cost.of(
            "search", len(compared) * 1.0 * study.text("selection").num_tokens, finalists.forward(length)
        )
        choice = {"tokens": total.tokens - evaluated.tokens, "flops": total.flops - evaluated.flops}
        flops = (read["tokens"] * read["flops_per_token"]).sum() + choice["flops"]
        assert read["tokens"].sum() + choice["tokens"] == paid.loc[each.variant, "tokens"], each.variant
        # The loser's correction is that of a mean finalist.
        assert flops == pytest.approx(paid.loc[each.variant, "flops"], rel=0.01), each.variant


def test_evaluation_costs_what_was_planned_beside_questions_and_proofs(
    study: PlannedStudy, spent: pd.DataFrame, data: Path, teacher: TeacherRecord, findings
) -> None:
    """Questions are counted by words beforehand; proofs and samples are too short to plan."""
    planned, paid = sums(plan(study, CPU, 0.2), "evaluation"), sums(spent, "evaluation")
    measurement, sources = study.conditions.measurement, study.num_sources["validation"]
    words = study.evaluation.question_tokens(sources)
    results = {
        each.variant: each for file in data.glob("07_model_output/*/*/results.json") for each in [read_records(file)]
    }
    for each in study.forecasts:
        asked = [task.cost for answers in results[each.variant].downstream for task in answers.tasks]
        short = [cost for cost in findings[each.variant].winner.costs if cost.stage == "evaluation"]
        scored, speed = results[each.variant].evaluation_costs, results[each.variant].efficiency
        forward = each.forward(measurement.length)
        known = Extent(3 * measurement.validation * sources, measurement.length).num_tokens
        rest = planned.loc[each.variant] - pd.Series({"tokens": 3 * words, "flops": 3 * words * forward})
        read = paid.loc[each.variant, ["tokens", "flops"]] - [
            sum(cost.tokens for cost in (*asked, *short)),
            sum(cost.flops for cost in (*asked, *short)),
        ]
        samples = [cost for cost in scored if cost.tokens != measurement.validation * sources * measurement.length]
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
