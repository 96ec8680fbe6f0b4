"""Costs of probes and trainings in the ledger: what is shared is charged once."""

import pandas as pd
import pytest

from budwood.pipelines.evaluation.gathering import Gathered, probe_costs, steps_taken_over
from budwood.pipelines.evaluation.nodes import join_curves

PROBE = {
    "arm": "probe",
    "steps": 4,
    "steady_steps": 3,
    "tokens": 400,
    "seconds": 8.0,
    "student_flops": 4000.0,
    "teacher_flops": 0.0,
    "heldout_tokens": 30,
    "heldout_flops": 90.0,
    "looked": {"tokens": 20, "flops": 60.0, "seconds": 1.0},
}
SCORE = PROBE | {
    "arm": "subnet_init",
    "run": "subnet_init",
    "seed": 42,
    "steps": 10,
    "steady_steps": 8,
    "tokens": 1000,
    "student_flops": 10_000.0,
}
# Held-out losses at steps 0, 2, 5 and 10: the first two are the probe's.
CURVE = pd.DataFrame({"step": [0, 1, 2, 5, 10], "heldout_losses": [[1.0], None, [1.0], [1.0], [1.0]]})
PLACE = {"bin": "half", "space": "coarse"}


def training(*scores: dict) -> dict:
    """Return the datasets of a training."""
    curves = join_curves(list(scores), **{f"{score['run']}_curve": CURVE for score in scores})
    return {"scores": list(scores), "downstream": [], "efficiency": {}, "evaluation_costs": [], "curves": curves}


def by_stage(ledger: list[dict]) -> dict:
    """Return tokens and FLOPs by stage and arm."""
    frame = pd.DataFrame(ledger).groupby(["stage", "arm"])[["tokens", "flops"]].sum()
    return {key: (row["tokens"], row["flops"]) for key, row in frame.iterrows()}


def test_a_training_that_continues_its_probe_is_charged_for_the_rest() -> None:
    taken = steps_taken_over(training(SCORE), PROBE)
    assert taken == 3
    gathered = Gathered(ledger=[PLACE | cost for cost in probe_costs(PROBE, taken)])
    gathered.add_training(PLACE, training(SCORE), taken)
    assert by_stage(gathered.ledger) == {
        ("probe", "subnet_init"): (300, pytest.approx(3000)),
        ("probe", ""): (100 + 20, pytest.approx(1000 + 60)),
        ("heldout", ""): (30, 90),
        ("training", "subnet_init"): (700, pytest.approx(7000)),
        ("heldout", "subnet_init"): (15, pytest.approx(45)),
    }


@pytest.mark.parametrize("steady", [0, 9])
def test_a_training_that_begins_anew_is_charged_in_full(steady: int) -> None:
    """A cosine shares nothing, and a probe that decays later than the training gives it no start."""
    probe = PROBE | {"steady_steps": steady}
    assert steps_taken_over(training(SCORE), probe) == 0
    assert steps_taken_over(training(SCORE), None) == 0
    gathered = Gathered(ledger=[PLACE | cost for cost in probe_costs(probe, 0)])
    gathered.add_training(PLACE, training(SCORE))
    costs = by_stage(gathered.ledger)
    assert costs["probe", ""] == (420, 4060)
    assert costs["training", "subnet_init"] == (1000, 10_000)


def test_the_reference_is_charged_once_for_all_spaces_of_its_bin() -> None:
    gathered = Gathered(ledger=[])
    for space in ("coarse", "fine"):
        gathered.add_training(
            PLACE | {"space": space}, training(SCORE, SCORE | {"arm": "reference_init", "run": "reference_init"})
        )
    ledger = pd.DataFrame(gathered.ledger)
    assert ledger[ledger["arm"] == "reference_init"]["space"].tolist() == ["", ""]
    assert by_stage(gathered.ledger)["training", "reference_init"] == (1000, 10_000)
    assert by_stage(gathered.ledger)["training", "subnet_init"] == (2000, 20_000)
    assert len(gathered.arms) == 4


def test_every_seed_is_charged_and_only_the_first_continues_its_probe() -> None:
    again = SCORE | {"run": "subnet_init_seed_43", "seed": 43}
    references = [
        score | {"arm": "reference_init", "run": score["run"].replace("subnet", "reference")}
        for score in (SCORE, again)
    ]
    gathered = Gathered(ledger=[])
    for space in ("coarse", "fine"):
        gathered.add_training(PLACE | {"space": space}, training(SCORE, again, *references), 3 * (space == "coarse"))
    costs = by_stage(gathered.ledger)
    assert costs["training", "subnet_init"] == (700 + 3 * 1000, pytest.approx(37_000))
    assert costs["training", "reference_init"] == (2000, 20_000)
    curves = pd.concat(gathered.curves)
    assert set(zip(curves["arm"], curves["seed"], strict=True)) == {
        *(("subnet_init", 42), ("subnet_init", 43), ("reference_init", 42), ("reference_init", 43))
    }
