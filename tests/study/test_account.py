"""The ledger: what probes, trainings and references cost, and that what is shared is charged once."""

import pandas as pd
import pytest

from budwood.pipelines.evaluation.nodes import join_curves
from budwood.records.account import SearchFindings, TrainingFindings
from budwood.records.certificate import Certificate
from budwood.records.cost import Cost
from budwood.records.gate import Gate
from budwood.records.names import Variant
from budwood.records.search import Finalists, Gathering, Winner
from budwood.records.training import MadeWith, ProbeScore, Score, SweptRates
from budwood.reporting.ledger import savings, search_flops
from budwood.study.account import ledger, probe_costs, steps_taken_over
from budwood.study.training import _curve_table

RUN = {
    "seed": 42,
    "steps": 4,
    "steady_steps": 3,
    "tokens": 400,
    "tokens_per_step": 100,
    "learning_rate": 0.1,
    "seconds": 8.0,
    "student_flops": 4000.0,
    "teacher_flops": 0.0,
    "heldout_tokens": 30,
    "heldout_flops": 90.0,
    "device": "cpu",
    "precision": "float32",
    "made_with": MadeWith(schedule={}, corpus="", start="", teacher=None, heldout=1, code=""),
    "num_parameters": 7,
}
PROBE = ProbeScore(
    **RUN | {"arm": "probe", "losses": [1.0], "looked": Cost(stage="probe", tokens=20, flops=60.0, seconds=1.0)}
)
SCORE = Score(
    **RUN
    | {"arm": "subnet_init", "run": "subnet_init", "steps": 10, "steady_steps": 8, "tokens": 1000}
    | {"student_flops": 10_000.0, "losses": {"one": [1.0]}, "tokens_per_sequence": 5}
)
# Held-out losses at steps 0, 2, 5 and 10: the first two are the probe's.
CURVE = pd.DataFrame({"step": [0, 1, 2, 5, 10], "heldout_losses": [[1.0], None, [1.0], [1.0], [1.0]]})
PLACE = Variant("half", "coarse")
FINE = Variant("half", "fine")


def trained(*scores: Score, at: Variant = PLACE) -> TrainingFindings:
    """Return what was trained of a variant, and nothing else that was measured."""
    return TrainingFindings(
        **at._asdict(), scores=scores, downstream=(), efficiency=(), evaluation_costs=(), samples=()
    )


def curves_of(*results: TrainingFindings) -> pd.DataFrame:
    """Return the curves of all runs."""
    tables = [
        join_curves(list(result.scores), *[CURVE] * len(result.scores), variant=result.variant) for result in results
    ]
    return pd.concat(tables, ignore_index=True)


def searched(
    probe: ProbeScore | None,
    at: Variant = PLACE,
    gathering: Gathering | None = None,
    ranking: tuple[str, ...] = (),
    **costs: tuple[Cost, ...],
) -> SearchFindings:
    """Return what was found of a variant; only their costs are looked at."""
    winner = Winner.model_construct(costs=costs.get("winner", ()))
    finalists = Finalists.model_construct(costs=costs.get("finalists", ()), gathering=gathering, ranking=ranking)
    certificate = Certificate.model_construct(costs=costs.get("certificate", ()))
    return SearchFindings.model_construct(
        **at._asdict(), winner=winner, finalists=finalists, certificate=certificate, probe=probe
    )


def charged(*results: TrainingFindings, probes: dict[Variant, ProbeScore] | None = None) -> list[Cost]:
    """Return the ledger of some trainings."""
    findings = [searched((probes or {}).get(result.variant), result.variant) for result in results]
    return ledger([], findings, results, curves_of(*results))


def by_stage(entries: list[Cost]) -> dict:
    """Return tokens and FLOPs by stage and arm."""
    frame = pd.DataFrame([entry.model_dump() for entry in entries])
    sums = frame.groupby(["stage", "arm"])[["tokens", "flops"]].sum()
    return {key: (row["tokens"], row["flops"]) for key, row in sums.iterrows()}


def test_a_training_that_continues_its_probe_is_charged_for_the_rest() -> None:
    assert steps_taken_over(trained(SCORE), PROBE) == 3
    assert by_stage(charged(trained(SCORE), probes={PLACE: PROBE})) == {
        ("probe", "subnet_init"): (300, pytest.approx(3000)),
        ("probe", ""): (100 + 20, pytest.approx(1000 + 60)),
        ("heldout", ""): (30, 90),
        ("training", "subnet_init"): (700, pytest.approx(7000)),
        ("heldout", "subnet_init"): (15, pytest.approx(45)),
    }


@pytest.mark.parametrize("steady", [0, 9])
def test_a_training_that_begins_anew_is_charged_in_full(steady: int) -> None:
    """A cosine shares nothing, and a probe that decays later than the training gives it no start."""
    probe = PROBE.model_copy(update={"steady_steps": steady})
    result = trained(SCORE)
    assert steps_taken_over(result, None) == 0
    assert steps_taken_over(result, probe) == 0
    costs = by_stage(charged(result, probes={PLACE: probe}))
    assert costs["probe", ""] == (420, 4060)
    assert costs["training", "subnet_init"] == (1000, 10_000)


def test_moments_that_searches_share_are_charged_once() -> None:
    cost = Cost(stage="search", flops=7.0, tokens=3, seconds=1.0)
    one, other = Gathering(moments="one", cost=cost), Gathering(moments="other", cost=cost)
    places = [Variant("half", "coarse"), Variant("quarter", "coarse"), FINE, Variant("half", "plain")]
    findings = [searched(None, *each) for each in zip(places, [one, one, other, None], strict=True)]
    entries = ledger([], findings, [], CURVE)
    assert [entry.flops for entry in entries] == [7.0, 7.0]
    assert [entry.serves for entry in entries] == [tuple(places[:2]), (FINE,)]


def test_what_variants_share_is_charged_in_full_to_those_that_need_it_and_to_no_other() -> None:
    """Ranking 100 and 30, moments 1000 of two orders, every search 50; the paper's space needs nothing of them.

    What the other spaces of the bin need besides is the cost of the choice. A winner is charged as its variant is.
    """
    ranking = [Cost(stage="calibration", flops=100.0, tokens=1), Cost(stage="elimination", flops=30.0, tokens=1)]
    needs = {
        "ours": ("A", ("calibration", "elimination")),
        "magnitude": ("B", ()),
        "change": ("A", ("calibration",)),
        "paper": (None, ()),
    }
    own, proof = (Cost(stage=stage, flops=50.0, tokens=1) for stage in ("search", "certificate"))
    moments = Cost(stage="search", flops=1000.0, tokens=10)
    findings = [
        searched(
            None,
            Variant("half", space),
            Gathering(moments=name, cost=moments) if name else None,
            stages,
            finalists=(own,),
            winner=(proof,),
        )
        for space, (name, stages) in needs.items()
    ]
    arms = [SCORE, SCORE.model_copy(update={"arm": "random_init", "run": "random_init"})]
    results = [trained(*arms, at=found.variant) for found in findings]
    losses = pd.Series([9.0, 8.5, 8.0, 7.0, 6.0])
    curves = curves_of(*results).assign(tokens=lambda frame: 100 * frame["step"])
    curves["heldout_loss"] = [*(losses - 1), *losses] * len(results)
    entries = ledger(ranking, findings, results, curves)
    entries = [Cost.model_validate_json(entry.model_dump_json()) for entry in entries]
    table = savings(curves, entries).set_index("space")
    charged = table["search_flops"].to_dict()
    assert charged == {"ours": 1180.0, "magnitude": 1050.0, "change": 1150.0, "paper": 50.0}
    assert charged == {each.space: each.winner.charged(each.finalists, ranking).search_flops for each in findings}
    assert charged == {each.space: search_flops(entries, each.variant, "subnet_init") for each in findings}
    everything = 100 + 30 + 2 * 1000 + 4 * 50
    trainings = 3 * SCORE.student_flops
    assert table["selection_flops"].to_dict() == {
        space: everything - flops + trainings for space, flops in charged.items()
    }


def test_a_cached_teacher_is_in_the_record_and_the_curve_but_once_in_the_ledger() -> None:
    """The student takes 1,000 FLOPs a step; a live teacher 300 beside it, a cache 3,000 before."""
    losses = [{"step": step, "heldout_losses": [1.0]} for step in (0, 5, 10)]
    live = SCORE.model_copy(update={"arm": "distilled", "run": "distilled", "teacher_flops": 3000.0})
    cached = live.model_copy(update={"teacher_cached": True})
    assert _curve_table(live, losses)["flops"].tolist() == [0.0, 6500.0, 13_000.0]
    assert _curve_table(cached, losses)["flops"].tolist() == [3000.0, 8000.0, 13_000.0]
    asked = Cost(stage="teacher_cache", arm="distilled", flops=3000.0, tokens=1000)
    results = [trained(cached), trained(cached, at=FINE)]
    findings = [searched(None), searched(None, FINE)]
    assert by_stage(charged(trained(live)))["teacher", "distilled"] == (1000, 3000.0)
    entries = ledger([asked], findings, results, curves_of(*results))
    assert sum(entry.flops for entry in entries if entry.stage in {"teacher", "teacher_cache"}) == 3000.0


def test_a_probe_whose_space_lost_is_charged_whole() -> None:
    assert by_stage(probe_costs(PROBE, 0)) == {("probe", ""): (420, 4060), ("heldout", ""): (30, 90)}


def test_the_reference_is_charged_once_for_all_spaces_of_its_bin() -> None:
    reference = SCORE.model_copy(update={"arm": "reference_init", "run": "reference_init"})
    entries = charged(trained(SCORE, reference), trained(SCORE, reference, at=FINE))
    assert {entry.space for entry in entries if entry.arm == "reference_init"} == {""}
    costs = by_stage(entries)
    assert costs["training", "reference_init"] == (1000, 10_000)
    assert costs["training", "subnet_init"] == (2000, 20_000)


def test_every_seed_is_charged_and_only_the_first_continues_its_probe() -> None:
    again = SCORE.model_copy(update={"run": "subnet_init_seed_43", "seed": 43})
    references = [
        score.model_copy(update={"arm": "reference_init", "run": score.run.replace("subnet", "reference")})
        for score in (SCORE, again)
    ]
    results = [trained(SCORE, again, *references, at=at) for at in (PLACE, FINE)]
    costs = by_stage(charged(*results, probes={PLACE: PROBE}))
    assert costs["training", "subnet_init"] == (700 + 3 * 1000, pytest.approx(37_000))
    assert costs["training", "reference_init"] == (2000, 20_000)
    curves = curves_of(*results)
    assert set(zip(curves["arm"], curves["seed"], strict=True)) == {
        *(("subnet_init", 42), ("subnet_init", 43), ("reference_init", 42), ("reference_init", 43))
    }


def test_all_that_a_search_cost_is_charged_to_its_variant() -> None:
    """The search, and of the choice the comparison, the winner's correction and the proofs; then the certificate.

    Shared costs come first.
    """
    found, won = Cost(stage="search", flops=5.0, tokens=1), Cost(stage="compensation", flops=7.0, tokens=2)
    checked = Cost(stage="certificate", flops=9.0, tokens=5)
    shared = Cost(stage="calibration", flops=3.0, tokens=4)
    one = searched(None, finalists=(found,), winner=(won,), certificate=(checked,))
    entries = ledger([shared], [one], [], pd.DataFrame())
    assert entries[0] == shared.model_copy(update={"serves": ()}), "no order and no fitness needs it"
    assert entries[1:] == [found.at(PLACE), won.at(PLACE), checked.at(PLACE)]


def test_a_start_is_charged_once_for_all_runs_that_begin_with_it() -> None:
    """By the probe where there is one, since it is the first."""
    cost = Cost(stage="gate", tokens=9, flops=90.0)
    gates = (Gate(name="start", value=0.0, limit=1.0, unit="nats", cost=cost, once=True),)
    scores = [SCORE.model_copy(update={"gates": gates, "seed": seed, "run": run}) for seed, run in enumerate("ab")]
    scores.append(SCORE.model_copy(update={"gates": gates}))
    for probes in ({}, {PLACE: PROBE.model_copy(update={"gates": gates})}):
        charged_gates = [cost for cost in charged(trained(*scores), probes=probes) if cost.stage == "gate"]
        assert charged_gates == [cost.at(PLACE)]


def test_a_sweep_is_charged_once_for_all_seeds_of_an_arm_and_for_its_probe() -> None:
    """Also where only the probe was trained, whose space lost; the reference's belongs to its bin."""
    cost = Cost(stage="sweep", tokens=9, flops=90.0, arm="probe")
    own = {"sweep": SweptRates(rates=(1.0, 2.0), losses=(1.0, None), untrained=2.0, cost=cost)}
    first = SCORE.model_copy(update=own)
    others = [{"seed": 7, "run": "subnet_init_seed_7"}, {"arm": "distilled", "run": "distilled"}]
    others.append({"arm": "reference_init", "run": "reference_init"})
    scores = [first, *(first.model_copy(update=each) for each in others)]
    bin_alone = Variant("half", "")
    expected = [cost.at(PLACE, "subnet_init"), cost.at(PLACE, "distilled"), cost.at(bin_alone, "reference_init")]
    probe = PROBE.model_copy(update=own)
    for probes in ({}, {PLACE: probe}):
        entries = charged(trained(*scores), trained(SCORE, scores[-1], at=FINE), probes=probes)
        assert [each for each in entries if each.stage == "sweep"] == expected
    found = [searched(None), searched(probe, FINE)]
    lost = ledger([], found, [trained(SCORE)], curves_of(trained(SCORE)))
    assert [each for each in lost if each.stage == "sweep"] == [cost.at(FINE, "subnet_init")]
