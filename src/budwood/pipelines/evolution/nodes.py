"""Search one variant."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from budwood.arch.count import num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import BinParameters, MeasurementParameters, SearchParameters, SpaceParameters
from budwood.pipelines.tracking import track
from budwood.pipelines.work import claim
from budwood.search.candidate import SearchRecord
from budwood.search.run import choose_winner, run_search
from budwood.search.strategy import Evolution
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.ordering import OrderedTeacher

HISTORY = "history.jsonl"


def evolve(
    teacher: Path,
    teacher_record: dict[str, Any],
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    bin_: BinParameters,
    space: SpaceParameters,
    search: SearchParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, Any]]]:
    """Evolve sub-networks inside a bin; return all that were evaluated, the best, and the costs."""
    compute = measurement.compute()
    ordered = space.ordered_teacher(teacher, importance).materialise(compute)
    parameter_bin = bin_.parameter_bin(num_parameters(ordered.architecture))
    facts = {
        "teacher": teacher_record["fingerprint"],
        "tokens": tokens.fingerprint,
        "bin": [parameter_bin.low, parameter_bin.high],
        "space": space.model_dump(exclude={"compensation"}),
        "search": search.model_dump(exclude={"num_finalists"}),
        "measurement": measurement.model_dump(include={"length", "calibration", "selection"}),
        "precision": compute.precision,
    }
    strategy = Evolution(space.search_space(ordered.ranked), parameter_bin, search.settings())
    records = run_search(
        strategy,
        _evaluator(ordered, tokens, "selection", measurement),
        claim(workspace, "search", facts) / HISTORY,
        search.race(measurement.selection),
        _log_epoch,
    )
    finalists = [selection for _, selection in strategy.elites[: search.num_finalists]]
    winner, looks = choose_winner(finalists, _evaluator(ordered, tokens, "choice", measurement))
    sizes = winner.architecture(ordered.ranked)
    best = {
        "selection": winner.to_dict(),
        "description": sizes.describe(),
        "num_parameters": num_parameters(sizes),
        "parameter_bin": [parameter_bin.low, parameter_bin.high],
        "choice_loss": min(look.loss for look in looks),
        "num_evaluations": len(records),
        "finalists": [
            {
                "description": finalist.architecture(ordered.ranked).describe(),
                "selection_loss": loss,
                "choice_loss": look.loss,
            }
            for (loss, finalist), look in zip(strategy.elites, looks, strict=False)
        ],
    }
    costs = [_cost("search", records), _cost("search", looks)]
    return pd.DataFrame([record.to_dict() for record in records]), best, costs


def _evaluator(
    ordered: OrderedTeacher, tokens: PackedCorpus, split: str, measurement: MeasurementParameters
) -> SubnetEvaluator:
    count = measurement.searched[split]
    windows = torch.from_numpy(tokens.windows(split, measurement.length, limit=count))
    return SubnetEvaluator(ordered, windows, measurement.batch_size)


def _cost(stage: str, evaluated: Sequence[Any]) -> dict[str, Any]:
    return {
        "stage": stage,
        "flops": sum(entry.flops for entry in evaluated),
        "tokens": sum(entry.tokens for entry in evaluated),
        "seconds": sum(entry.seconds for entry in evaluated),
    }


def _log_epoch(strategy: Evolution, records: Sequence[SearchRecord]) -> None:
    newest = [record.loss for record in records if record.epoch == strategy.epoch and math.isfinite(record.loss)]
    track(
        {
            "search.best_loss": strategy.elites[0][0],
            "search.epoch_median_loss": statistics.median(newest) if newest else math.nan,
            "search.acceptance": strategy.acceptance,
            "search.evaluations": len(records),
            "search.tokens": sum(record.tokens for record in records),
        },
        strategy.epoch,
    )
