"""Sanity gates pass what is sound and stop what is broken, before anything is spent on it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strategies import SMOLLM2_135M

from budwood.arch.count import forward_flops_per_token
from budwood.models.checkpoint import Checkpoint
from budwood.models.prompts import record_prompts, write_check
from budwood.records.cost import Cost
from budwood.records.gate import OVERFIT_STEPS, Gate
from budwood.study.gate_costs import START_LENGTHS, halved, order_gate_costs
from budwood.study.gates import TIE, CheckOrder, CheckStart, OverfitBatch, first_half, last_half, require_passed
from budwood.study.stage import Workspace
from budwood.study.teacher import RankComponents
from budwood.study.text import Windows
from budwood.study.training import TrainArm
from budwood.subnet.settings import Ordering
from budwood.training.settings import ArmSettings, Schedule

pytestmark = pytest.mark.slow

SCHEDULE = Schedule(tokens=64, sequence_length=16, global_batch=4, micro_batch=4, num_evaluations=1)
ORDER = Ordering(layer_score="influence")


def gate(value: float) -> Gate:
    return Gate(name="it", value=value, limit=1.0, unit="nats", cost=Cost(stage="gate", flops=1.0, tokens=1))


def test_a_gate_fails_at_its_limit_and_on_no_number(caplog: pytest.LogCaptureFixture) -> None:
    require_passed([gate(0.99)], "stop")
    for value in (1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"it: .* nats, which must be below 1.*protocol\.failed_gate: warn"):
            require_passed([gate(0.5), gate(value)], "stop")
    require_passed([gate(float("nan"))], "warn")
    assert "Sanity gate failed: it: nan" in caplog.text


@pytest.fixture(scope="module")
def ranked(run: TrainArm, workspace: Workspace) -> CheckOrder:
    """Return the check of the order of a teacher that was trained."""
    teacher = workspace.finish(run).model
    shared = {"teacher": teacher, "compute": run.compute, "batch_size": 4}
    calibration = Windows(tokens=run.tokens, split="calibration", length=32, count=6)
    found = workspace.finish(RankComponents(calibration=calibration, elimination=0, **shared))
    selection = replace(calibration, split="selection")
    return CheckOrder(importance=found.importance, ordering=ORDER, windows=selection, **shared)


def values(check: CheckOrder, workspace: Workspace) -> dict[str, float]:
    return {found.name.split()[3]: found.value for found in workspace.finish(check)}


def test_an_order_is_better_than_its_reverse_and_a_broken_one_is_not(ranked: CheckOrder, workspace: Workspace) -> None:
    """The broken order begins with the least important of every axis."""
    broken = {
        name: -tensor if name.endswith(("channels", "change", "influence", "heads", "neurons")) else tensor
        for name, tensor in ranked.importance.items()
    }
    sound, turned = values(ranked, workspace), values(replace(ranked, importance=broken), workspace)
    assert set(sound) == {"channels", "layers", "heads", "neurons"} == set(turned)
    # Of this teacher's two layers the first is the better one, so that the teacher's own order is the same.
    assert sound.pop("layers") == pytest.approx(-TIE, rel=1e-2)
    assert max(sound.values()) < -TIE < 0 < min(turned.values())


def test_halves_of_an_axis_leave_all_else_whole() -> None:
    for axis, rest in (("channels", 288), ("heads", 576), ("neurons", 576), ("layers", 576)):
        first, last = first_half(SMOLLM2_135M, axis), last_half(SMOLLM2_135M, axis)
        assert first.architecture(SMOLLM2_135M) == last.architecture(SMOLLM2_135M) == halved(SMOLLM2_135M, axis)
        assert len(last.hidden) == rest
        assert first != last
    assert last_half(SMOLLM2_135M, "heads").layers[0].groups == (1, 2)
    assert [layer.layer for layer in last_half(SMOLLM2_135M, "layers").layers] == list(range(15, 30))


def test_the_check_of_an_order_costs_three_readings_of_every_half(ranked: CheckOrder, workspace: Workspace) -> None:
    for axis, cost in order_gate_costs(ranked.teacher.architecture, ranked.windows.extent).items():
        half = forward_flops_per_token(halved(ranked.teacher.architecture, axis), context=32)
        assert (cost.tokens, cost.flops) == (3 * 6 * 32, 3 * 6 * 32 * half)
    assert sum(found.cost.tokens for found in workspace.finish(ranked)) == 4 * 3 * 6 * 32


@pytest.fixture
def certified(run: TrainArm, tmp_path: Path) -> Checkpoint:
    """Return a start beside its recorded log-probabilities."""
    source = run.start.checkpoint
    folder = shutil.copytree(source.folder, tmp_path / "certified")
    write_check(folder, record_prompts(source.load_model(torch.float32)))
    return Checkpoint.open(folder)


def test_a_start_has_the_loss_of_its_certificate(run: TrainArm, certified: Checkpoint, tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path / "work")
    own = replace(run, start=replace(run.start, checkpoint=certified), schedule=SCHEDULE)
    trained = workspace.finish(own)
    (found,) = trained.record.gates
    assert workspace.finish(own.seeded(7)).record.gates == (found,)
    assert len(list(workspace.folder.glob("start_gate-*"))) == 1, "checked once, whatever the arm and the seed"
    assert found.passed
    assert found.value < 1e-5
    assert found.cost.tokens == sum(START_LENGTHS)
    assert [cost.stage for cost in trained.record.costs] == ["training", "heldout"], "no run pays for the start alone"
    assert CheckStart.of(run.start.checkpoint, run.compute) is None, "without a certificate"


def test_a_start_that_is_not_what_was_certified_is_not_trained(
    run: TrainArm, certified: Checkpoint, workspace: Workspace, tmp_path: Path
) -> None:
    """The certificate is that of the model after a training, and the weights are those before it."""
    write_check(certified.folder, record_prompts(workspace.finish(run).model.load_model(torch.float32)))
    broken = replace(run, start=replace(run.start, checkpoint=certified), schedule=SCHEDULE)
    own = Workspace(folder=tmp_path / "work")
    with pytest.raises(ValueError, match="sanity gate failed: loss at step 0 against the certificate's"):
        own.finish(broken)
    assert not list(own.folder.glob("training-*/run")), "nothing was spent"
    (found,) = own.finish(replace(broken, on_failure="warn")).record.gates
    assert not found.passed


def long(run: TrainArm, rate: float) -> TrainArm:
    """Return a run of a thousand steps at a rate."""
    schedule = SCHEDULE.model_copy(update={"tokens": 1000 * SCHEDULE.tokens_per_step})
    return replace(run, settings=ArmSettings(learning_rate=rate), schedule=schedule)


def overfit(run: TrainArm, workspace: Workspace) -> Gate:
    job = run.job(workspace.folder / "none", run.settings.learning_rate)
    check = OverfitBatch(run_facts=json.dumps(run.facts()), student=run.start.architecture, job=job)
    (found,) = workspace.finish(check)
    return found


def test_one_batch_can_be_learned_by_heart(run: TrainArm, tmp_path: Path) -> None:
    found = overfit(long(run, 0.03), Workspace(folder=tmp_path))
    assert found.passed
    assert found.cost.tokens == OVERFIT_STEPS * SCHEDULE.tokens_per_step
    assert not list(tmp_path.glob("overfit_gate-*/run")), "its model is of no use"


def test_a_student_that_does_not_learn_is_not_trained(run: TrainArm, tmp_path: Path) -> None:
    """At this rate the weights stay where they are."""
    workspace = Workspace(folder=tmp_path)
    with pytest.raises(ValueError, match="sanity gate failed: loss on one batch, seen over and over"):
        workspace.finish(long(run, 1e-9))
    assert not list(tmp_path.glob("training-*/run")), "nothing was spent"
