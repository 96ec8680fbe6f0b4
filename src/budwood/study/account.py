"""The ledger of a study: every cost of every variant, once."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from budwood.records.account import SearchFindings, TrainingFindings
from budwood.records.cost import RANKING_STAGES, Cost
from budwood.records.names import CONTINUED, REFERENCE, SHARED, Variant
from budwood.records.training import ProbeScore, Score, TrainingRecord


def ledger(
    shared: Iterable[Cost],
    findings: Sequence[SearchFindings],
    results: Sequence[TrainingFindings],
    curves: pd.DataFrame,
) -> list[Cost]:
    """Return all costs of a study.

    Args:
        shared: costs that no single variant has caused.
        findings: of every search.
        results: of everything that was trained in full.
        curves: of all runs, with their `bin`, `space`, `arm` and `seed`.
    """
    probes = {found.variant: found.probe for found in findings}
    taken_over = {result.variant: steps_taken_over(result, probes[result.variant]) for result in results}
    entries = [*(_ranking(cost, findings) for cost in shared), *_of_moments(findings)]
    references: set[tuple[str, int]] = set()
    for result in sorted(results, key=lambda each: each.variant):
        # All spaces of a bin share its reference: the first that brings it is charged.
        new = [score for score in result.scores if score.arm != REFERENCE or (result.bin, score.seed) not in references]
        references |= {(result.bin, score.seed) for score in new if score.arm == REFERENCE}
        entries += _of_training(result, new, curves, taken_over[result.variant])
        entries += _of_sweeps(result.variant, new)
        if probes[result.variant] is None:
            entries += _of_starts(result.variant, result.scores)
    for found in sorted(findings, key=lambda each: each.variant):
        costs = [*found.finalists.costs, *found.winner.costs, *found.certificate.costs]
        entries += [cost.at(found.variant) for cost in costs]
        if found.probe is not None:
            entries += _of_starts(found.variant, [found.probe])
            # An arm after the probe has its learning rate from the same short runs, and is charged with them.
            entries += [] if found.variant in taken_over else _of_sweeps(found.variant, [found.probe])
            entries += [cost.at(found.variant) for cost in probe_costs(found.probe, taken_over.get(found.variant, 0))]
    return entries


def _ranking(cost: Cost, findings: Sequence[SearchFindings]) -> Cost:
    """Return a shared cost with the variants that it serves, where it ranks the teacher's components."""
    if cost.stage not in RANKING_STAGES:
        return cost
    served = sorted(found.variant for found in findings if cost.stage in found.finalists.ranking)
    return cost.model_copy(update={"serves": tuple(served)})


def _of_moments(findings: Sequence[SearchFindings]) -> list[Cost]:
    """Return what it cost to gather moments, each once for all searches that used them."""
    costs, served = {}, defaultdict(list)
    for found in findings:
        if found.finalists.gathering is not None:
            costs[found.finalists.gathering.moments] = found.finalists.gathering.cost
            served[found.finalists.gathering.moments].append(found.variant)
    return [cost.model_copy(update={"serves": tuple(sorted(served[name]))}) for name, cost in costs.items()]


def steps_taken_over(result: TrainingFindings, probe: ProbeScore | None) -> int:
    """Return how many steps of a probe the training after it did not repeat."""
    if probe is None:
        return 0
    (score,) = [score for score in result.scores if score.run == CONTINUED]
    return probe.steady_steps if probe.steady_steps <= score.steady_steps else 0


def probe_costs(probe: ProbeScore, taken_over: int) -> list[Cost]:
    """Return what a probe cost: its training, a teacher in it, held-out losses, and the look that shows its worth.

    Steps that an arm has taken over carry its name: they are part of its training too, and charged here.
    """
    student, *others = [cost.model_copy(update={"arm": SHARED}) for cost in probe.costs]
    student = student.model_copy(update={"stage": "probe"})
    share = taken_over / probe.steps
    own = student.share(share).model_copy(update={"arm": CONTINUED})
    return [*([own, student.share(1 - share)] if share else [student]), *others, probe.looked]


def _of_starts(variant: Variant, runs: Sequence[TrainingRecord]) -> list[Cost]:
    """Return the costs of what is checked once for all runs of a variant."""
    once = {gate.name: gate.cost for run in runs for gate in run.gates if gate.once}
    return [cost.at(variant) for cost in once.values()]


def _of_sweeps(variant: Variant, runs: Sequence[TrainingRecord]) -> list[Cost]:
    """Return the costs of choosing learning rates, of every arm once for all its seeds; a probe's are its arm's."""
    once = {CONTINUED if isinstance(run, ProbeScore) else run.arm: run.sweep for run in runs if run.sweep is not None}
    return [
        swept.cost.at(Variant(variant.bin, SHARED) if arm == REFERENCE else variant, arm) for arm, swept in once.items()
    ]


def _of_training(
    result: TrainingFindings, scores: Sequence[Score], curves: pd.DataFrame, taken_over: int
) -> list[Cost]:
    measured = [*result.evaluation_costs, *(speed.cost for speed in result.efficiency)]
    entries = [cost.at(result.variant) for cost in measured]
    for answers in result.downstream:
        entries += [task.cost.at(result.variant, answers.model) for task in answers.tasks]
    for certificate in result.certificates:
        assert certificate.training is not None, "of a trained sub-network"
        entries += [cost.at(result.variant, certificate.training.arm) for cost in certificate.costs]
    for score in scores:
        where = Variant(result.bin, SHARED) if score.arm == REFERENCE else result.variant
        costs = score.costs
        if score.run == CONTINUED and taken_over:
            own = curves[(curves["bin"] == result.bin) & (curves["space"] == result.space)]
            costs = _rest(score, own, taken_over)
        entries += [cost.at(where) for cost in costs]
    return entries


def _rest(score: Score, curves: pd.DataFrame, taken_over: int) -> tuple[Cost, ...]:
    """Return the costs of a training without the steps, and the held-out losses on them, that its probe has paid."""
    own = (curves["arm"] == score.arm) & (curves["seed"] == score.seed)
    measured = curves.loc[own & curves["heldout_losses"].notna(), "step"]
    left = 1 - taken_over / score.steps
    shares = {"training": left, "teacher": left, "heldout": float((measured > taken_over).mean()), "gate": 1.0}
    return tuple(cost.share(shares[cost.stage]) for cost in score.costs)
