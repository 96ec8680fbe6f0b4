"""Short runs find the rate that trains best, and cost what they are said to."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from papers import H100, PYTHIA_69B, PYTHIA_410M, conditions, forecast, row, study

from budwood.arch.count import forward_flops_per_token
from budwood.models.losses import sequence_losses
from budwood.records.cost import Cost
from budwood.records.files import read_json_lines
from budwood.records.training import Run, SweptRates
from budwood.study import sweep
from budwood.study.defaults import ARM_SETTINGS
from budwood.study.plan import plan
from budwood.study.settings import ProtocolSettings
from budwood.study.stage import Stage, Workspace
from budwood.study.sweep import MAX_BEYOND, SweepRates, SweepText, next_rate
from budwood.study.text import Windows
from budwood.study.training import TrainArm
from budwood.training.job import TrainingJob
from budwood.training.launch import run_job
from budwood.training.settings import ArmSettings, RateSweep, Schedule

NAMED = (1e-3, 1e-2)
WORDS = Schedule(tokens=3840, sequence_length=16, global_batch=4, micro_batch=4, num_evaluations=1)


def explored(best: float, named: tuple[float, ...] = NAMED) -> list[float]:
    """Return the rates that are tried where the loss is lowest at one and grows with the distance from it."""
    found: dict[float, float] = {}
    while (rate := next_rate(named, found)) is not None:
        found[rate] = abs(math.log(rate / best))
    return list(found)


def test_rates_are_tried_until_the_best_lies_between_others() -> None:
    assert explored(3e-4, (1e-4, 3e-4, 1e-3)) == [1e-4, 3e-4, 1e-3]
    assert explored(1e-4) == [1e-3, 1e-2, 1e-4, 1e-5]
    assert explored(1.0) == [1e-3, 1e-2, 1e-1, 1.0, 10.0]
    assert explored(1e-9) == [1e-3, 1e-2, 1e-4, 1e-5, 1e-6], "no more beyond"


@given(st.floats(1e-12, 1e6), st.lists(st.floats(1e-7, 1.0), min_size=2, max_size=5, unique=True).map(sorted))
def test_what_is_tried_has_no_end_inside_and_no_rate_twice(best: float, named: list[float]) -> None:
    tried = explored(best, tuple(named))
    assert tried[: len(named)] == named
    assert len(set(tried)) == len(tried) <= len(named) + MAX_BEYOND


def test_where_all_diverge_lower_rates_are_tried() -> None:
    assert next_rate(NAMED, {1e-3: math.inf, 1e-2: math.inf}) == 1e-4


def swept(*losses: float | None) -> SweptRates:
    """Return what short runs found at rates of 1, 2 and 3 where a start has a loss of 5."""
    cost = Cost(stage="sweep", flops=1.0, tokens=1)
    return SweptRates(rates=(1.0, 2.0, 3.0), losses=losses, untrained=5.0, cost=cost)


def test_the_edge_of_what_is_stable_is_doubted() -> None:
    assert (swept(4.0, 3.0, 4.0).best, swept(4.0, 3.0, 4.0).doubts) == (2.0, "")
    assert swept(3.0, 4.0, 4.0).doubts == "1 is the lowest that was tried"
    assert swept(4.0, 3.0, 2.0).doubts == "3 is the highest that was tried"
    for last in (None, 5.0, float("nan")):
        assert swept(4.0, 3.0, last).doubts == "2 is at the edge of what is stable: at 3 nothing is learned"
    with pytest.raises(ValueError, match=r"training diverges at each of the rates \[1.0, 2.0, 3.0\]: try lower ones"):
        _ = swept(None, None, None).best


def test_a_short_run_shows_in_no_tracker_and_keeps_no_branch(stages: list[Stage], tmp_path: Path) -> None:
    """All short runs of a sweep would be one run of a tracker."""
    (own,) = [stage.job for stage in stages if isinstance(stage, SweepRates)]
    engine = own.engine.model_copy(update={"report_to": ("wandb",), "kept_checkpoints": 7})
    brief = own.model_copy(update={"engine": engine, "branch_folder": tmp_path}).brief(WORDS, tmp_path / "run")
    assert (brief.engine.report_to, brief.engine.kept_checkpoints) == ((), 7)
    assert (brief.schedule, brief.output_folder, brief.branch_folder) == (WORDS, tmp_path / "run", None)
    assert (brief.heldout_windows, brief.learning_rate, brief.frozen_batch) == (1, own.learning_rate, False)


def test_the_rates_of_a_sweep_rise() -> None:
    for rates in ((1e-3,), (1e-3, 1e-3), (1e-2, 1e-3)):
        with pytest.raises(ValueError, match="must be two or more that rise"):
            RateSweep(tokens=1, rates=rates)
    with pytest.raises(ValueError, match="greater than 0"):
        RateSweep(tokens=1, rates=(-1.0, 1.0))


SWEEP = RateSweep(tokens=20 * 64, rates=(1e-4, 1e-2))


@pytest.fixture(scope="module")
def swept_run(run: TrainArm) -> TrainArm:
    """Return the run with short runs of twenty steps in place of its rate."""
    text = SweepText(
        schedule=run.schedule.brief(SWEEP.tokens),
        choice=Windows(tokens=run.tokens, split="choice", length=16, count=4),
    )
    return replace(run, settings=ArmSettings(learning_rate=SWEEP), sweep=text)


@pytest.mark.slow
def test_the_rate_is_that_whose_short_run_ends_lowest(run: TrainArm, swept_run: TrainArm, workspace: Workspace) -> None:
    """Each rate by itself, as an arm whose training is as short."""
    record = workspace.finish(swept_run).record
    found, choice = record.sweep, swept_run.sweep.choice.read()
    assert found.rates[:2] == SWEEP.rates
    assert found.losses[0] > found.losses[1]
    for rate, loss in zip(SWEEP.rates, found.losses, strict=False):
        alone = replace(run, settings=ArmSettings(learning_rate=rate), schedule=swept_run.sweep.schedule)
        model = workspace.finish(alone).model.load_model(torch.float32)
        assert loss == pytest.approx(sequence_losses(model, choice).mean().item(), abs=1e-6)
    tried = [(loss, rate) for loss, rate in zip(found.losses, found.rates, strict=True) if loss is not None]
    assert record.learning_rate == found.best == min(tried)[1]
    assert found.untrained == pytest.approx(
        sequence_losses(run.start.checkpoint.load_model(torch.float32), choice).mean().item()
    )
    forward, num = forward_flops_per_token(run.start.architecture, context=16), len(found.rates)
    assert found.cost.tokens == num * 20 * 64
    # Every short run has two held-out losses of one sequence; the choice has four, which the start reads too.
    assert found.cost.flops == forward * (num * (3 * 20 * 64 + 2 * 16) + (num + 1) * 4 * 16)
    assert [cost.stage for cost in record.costs] == ["training", "heldout"], "seeds share it"
    assert workspace.finish(swept_run.seeded(7)).record.sweep == found
    (folder,) = workspace.folder.glob("rate_sweep-*")
    assert not list(folder.glob("run-*")), "models of short runs are of no use"


@pytest.mark.slow
def test_rates_that_diverge_are_not_taken_and_a_killed_sweep_continues(
    swept_run: TrainArm, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = RateSweep(tokens=SWEEP.tokens, rates=(1e-3, 1e-2, 1e4))
    run = replace(swept_run, settings=ArmSettings(learning_rate=wild))
    workspace, trained = Workspace(folder=tmp_path), []

    def killed_once(job: TrainingJob, *others: object) -> Run:
        trained.append(job.learning_rate)
        if trained == [1e-3, 1e-2]:
            raise KeyboardInterrupt
        return run_job(job, *others)

    monkeypatch.setattr(sweep, "run_job", killed_once)
    with pytest.raises(KeyboardInterrupt):
        workspace.finish(run)
    (file,) = tmp_path.glob("rate_sweep-*/tried.jsonl")
    (first,) = read_json_lines(file)
    record = workspace.finish(run).record
    assert trained == [1e-3, 1e-2, 1e-2, 1e4]
    assert sum(row["seconds"] for row in read_json_lines(file)) < record.sweep.cost.seconds
    assert first["seconds"] > 0
    assert record.sweep.losses[-1] is None
    assert record.sweep.best == 1e-2
    assert "arm subnet_init: of the learning rates, 0.01 is at the edge of what is stable" in caplog.text


@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 3}, {"warmup_steps": 90}, {"warmup_ratio": 0.1}])
def test_short_runs_are_alike_however_long_the_training(warmup: dict[str, float]) -> None:
    """A probe's choice of a rate is that of its arm."""
    briefs = [WORDS.changed({"tokens": steps * 64, **warmup}).brief(20 * 64) for steps in (100, 1000)]
    assert briefs[0] == briefs[1]
    assert briefs[0].num_warmup_steps == {"warmup_steps": min(warmup.get("warmup_steps", 0), 5), "warmup_ratio": 2}.get(
        next(iter(warmup), ""), 0
    )


def test_a_sweep_is_shorter_than_its_training_and_finalists_have_none() -> None:
    settings = ArmSettings(learning_rate=RateSweep(tokens=WORDS.tokens))
    with pytest.raises(ValueError, match=r"learning_rate.tokens=3840 must be fewer than tokens=3840 of training"):
        settings.rate(WORDS)
    arms = ARM_SETTINGS.model_copy(update={"subnet_init": ArmSettings(learning_rate=SWEEP)})
    assert arms.subnet_init.rate(WORDS) == SWEEP
    with pytest.raises(ValueError, match=r"search.finalist_tokens needs a number in arms.subnet_init.learning_rate"):
        arms.finalist_rate(WORDS)


def test_learning_rates_are_chosen_once_for_all_seeds_and_by_the_probe() -> None:
    """Three runs of 5 steps each, of 1,056 sequences and two held-out ones, and looks at 64 sequences of 512."""
    sweep = ArmSettings(learning_rate=RateSweep(tokens=10_000_000))
    arms = conditions().arms.model_copy(update={"subnet_init": sweep, "random_init": sweep, "reference_init": sweep})
    own = forecast(reference=PYTHIA_410M)
    for probe_tokens in (None, 2_000_000_000):
        protocol = ProtocolSettings(probe_tokens=probe_tokens, num_seeds=2)
        planned = plan(study(forecasts=(own,), arms=arms, protocol=protocol), H100, 0.4)
        rows = planned[planned["stage"] == "sweep"].set_index("arm")
        assert sorted(rows.index) == ["random_init", "reference_init", "subnet_init"]
        assert set(rows["tokens"]) == {3 * 5 * 1056 * 2048}
        long, short = (forward_flops_per_token(PYTHIA_410M, context=context) for context in (2048, 512))
        runs = 3 * (3 * 5 * 1056 + 2) * 2048 * long
        assert rows.loc["random_init", "flops"] == runs + 3 * 64 * 512 * short
        assert rows.loc["subnet_init", "flops"] == runs + 4 * 64 * 512 * short, "the start is looked at too"
    taught = conditions().arms.distilled.model_copy(update={"learning_rate": RateSweep(tokens=10_000_000)})
    arms = conditions().arms.model_copy(update={"distilled": taught})
    beside = row(plan(study(arms=arms), H100, 0.4), "sweep", "distilled")["flops"]
    teacher = 3 * 5 * 1056 * 2048 * forward_flops_per_token(PYTHIA_69B, context=2048)
    assert beside == runs + 4 * 64 * 512 * short + teacher
