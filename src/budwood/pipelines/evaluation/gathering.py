"""Results and costs of all variants, put together."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from budwood.reporting.ledger import PROBE
from budwood.reporting.records import CONTINUED, REFERENCE, SHARED

Record = dict[str, Any]

SEARCHED = ("best", "certificate", "search_costs", "choice_costs", "export_costs")
"""Datasets of every (bin, space), beside its history."""
PROBED = ("probe_scores",)
"""Those that it has where spaces are probed."""
TRAINED = ("scores", "downstream", "efficiency", "evaluation_costs")
"""Datasets of everything that is trained in full, beside its curves."""
WINNER = (
    *("description", "num_parameters", "num_evaluations", "fitness", "selection_loss", "choice_loss"),
    *("choice_interval", "lead", "lead_interval", "finalist_tokens", "paper_flops"),
)
"""Facts of a search that its table tells."""
CERTIFIED = ("num_parameters", "largest_logit_difference", "native", "class", "fingerprint")
"""Facts of a certificate that fit in a table."""


@dataclass(slots=True, kw_only=True)
class Gathered:
    """What the tables of all variants are made from; grows variant by variant."""

    ledger: list[Record]
    histories: list[pd.DataFrame] = field(default_factory=list)
    curves: list[pd.DataFrame] = field(default_factory=list)
    certificates: list[Record] = field(default_factory=list)
    winners: list[Record] = field(default_factory=list)
    arms: list[Record] = field(default_factory=list)
    downstream: list[Record] = field(default_factory=list)
    efficiency: list[Record] = field(default_factory=list)

    def add_search(self, variant: Record, part: Record, taken_over: int = 0) -> None:
        """Add what a search found and cost, and its probe.

        Args:
            variant: under which it is told.
            part: its datasets.
            taken_over: steps of its probe that the training after it has not repeated.
        """
        self.histories.append(part["history"].assign(**variant))
        self.certificates.append(variant | {key: part["certificate"][key] for key in CERTIFIED})
        spent = sum(cost["flops"] for cost in [*part["search_costs"], *part["choice_costs"]])
        self.winners.append(variant | {key: part["best"][key] for key in WINNER} | {"search_flops": spent})
        costs = [cost for name in ("search_costs", "choice_costs", "export_costs") for cost in part[name]]
        self.ledger += [variant | {"arm": ""} | cost for cost in costs]
        if "probe_scores" in part:
            self.ledger += [variant | cost for cost in probe_costs(part["probe_scores"], taken_over)]

    def add_training(self, variant: Record, part: Record, taken_over: int = 0) -> None:
        """Add what arms became and cost.

        Args:
            variant: under which they are told: the space is the one that was chosen.
            part: their datasets.
            taken_over: steps that one of them has from its probe.
        """
        self.arms += [variant | score for score in part["scores"]]
        self.curves.append(part["curves"].assign(**variant))
        self.downstream += [variant | record for record in part["downstream"]]
        costs = list(part["evaluation_costs"])
        if part["efficiency"]:
            self.efficiency.append(variant | part["efficiency"])
            costs.append(evaluation_cost(part["efficiency"]))
        self.ledger += [variant | {"arm": ""} | cost for cost in costs]
        self.ledger += [
            variant | {"arm": record["model"]} | cost for record in part["downstream"] for cost in task_costs([record])
        ]
        of_reference = [score for score in part["scores"] if score["arm"] == REFERENCE]
        shared = [cost for score in of_reference for cost in training_costs(score)]
        self._add_once(variant | {"space": SHARED}, shared)
        for score in part["scores"]:
            costs = training_costs(score)
            if score["arm"] == REFERENCE:
                continue
            if score["run"] == CONTINUED and taken_over:
                self.ledger += [variant | cost for cost in _rest(costs, score, part["curves"], taken_over)]
            else:
                self.ledger += [variant | cost for cost in costs]

    def _add_once(self, variant: Record, costs: list[Record]) -> None:
        """Add costs that all spaces of a bin share, unless another space has brought them."""
        keys = {(*_variant(cost), cost["arm"]) for cost in self.ledger}
        self.ledger += [variant | cost for cost in costs if (*_variant(variant), cost["arm"]) not in keys]


def steps_taken_over(part: Record, probe: Record | None) -> int:
    """Return how many steps of a probe the training after it did not repeat.

    Args:
        part: datasets of the training.
        probe: its record; None without a probe.
    """
    if probe is None:
        return 0
    (score,) = [score for score in part["scores"] if score["run"] == CONTINUED]
    steady: int = probe["steady_steps"]
    return steady if steady <= score["steady_steps"] else 0


def probe_costs(probe: Record, taken_over: int) -> list[Record]:
    """Return what a probe cost: its training, the teacher in it, held-out losses, and the look that tells its worth.

    Steps that an arm has taken over carry its name: they are part of its training too, and charged here.
    """
    student, *others = [cost | {"arm": SHARED} for cost in training_costs(probe)]
    share = taken_over / probe["steps"]
    parts = [_scaled(student, share) | {"arm": CONTINUED}, _scaled(student, 1 - share)] if share else [student]
    looked = {"stage": PROBE, "arm": SHARED} | probe["looked"]
    return [*(part | {"stage": PROBE} for part in parts), *others, looked]


def _rest(costs: list[Record], score: Record, curves: pd.DataFrame, taken_over: int) -> list[Record]:
    """Return the costs of a training without the steps, and the held-out losses on them, that its probe has paid."""
    own = (curves["arm"] == score["arm"]) & (curves["seed"] == score["seed"])
    measured = curves.loc[own & curves["heldout_losses"].notna(), "step"]
    left = 1 - taken_over / score["steps"]
    shares = {"training": left, "teacher": left, "heldout": float((measured > taken_over).mean())}
    return [_scaled(cost, shares[cost["stage"]]) for cost in costs]


def training_costs(score: Record) -> list[Record]:
    """Return what the training of an arm cost: the student, a live teacher, and the held-out losses on the way."""
    student = {
        "stage": "training",
        "arm": score["arm"],
        "flops": score["student_flops"],
        "tokens": score["tokens"],
        "seconds": score["seconds"],
    }
    # The teacher and the held-out losses run inside the training: their seconds are in the student's.
    teacher = {"stage": "teacher", "flops": score["teacher_flops"], "seconds": 0.0}
    heldout = {"stage": "heldout", "flops": score["heldout_flops"], "tokens": score["heldout_tokens"], "seconds": 0.0}
    return [student, *([student | teacher] if score["teacher_flops"] else []), student | heldout]


def task_costs(records: list[Record]) -> Iterator[Record]:
    """Yield what every task of some answers cost."""
    yield from (evaluation_cost(task) for record in records for task in record["tasks"])


def evaluation_cost(spent: Record) -> Record:
    """Return a cost as an entry of the ledger."""
    return {"stage": "evaluation"} | {name: spent[name] for name in ("flops", "tokens", "seconds")}


def _scaled(cost: Record, share: float) -> Record:
    """Return a share of a cost."""
    return (
        cost | {name: share * cost[name] for name in ("flops", "seconds")} | {"tokens": round(share * cost["tokens"])}
    )


def _variant(record: Record) -> tuple[str, str]:
    return record["bin"], record["space"]
