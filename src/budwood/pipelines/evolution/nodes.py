"""Search one variant, and choose its winner."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, BinParameters, MeasurementParameters, SpaceParameters
from budwood.pipelines.evolution.evaluators import EvaluatorSource, evaluating_candidates, windows_of
from budwood.pipelines.evolution.finals import Finals, Look
from budwood.pipelines.tracking import track
from budwood.pipelines.work import claim
from budwood.records.strict import facts as facts_of
from budwood.reporting.ledger import paper_search_flops
from budwood.reporting.study import in_small
from budwood.search.candidate import SearchRecord
from budwood.search.choice import Choice, choose
from budwood.search.fitness import DIVERGENCE, PERPLEXITY
from budwood.search.run import run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import Strategy, open_strategy
from budwood.training.settings import Engine, Schedule

HISTORY = "history.jsonl"

Record = dict[str, Any]


def evolve(
    teacher: Path,
    teacher_record: Record,
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    bin_: BinParameters,
    space: SpaceParameters,
    search: SearchSettings,
    measurement: MeasurementParameters,
    workspace: Path,
) -> tuple[pd.DataFrame, Record, list[Record]]:
    """Evolve sub-networks inside a bin; return all that were evaluated, the finalists, and the costs."""
    windows = windows_of(tokens, "selection", measurement)
    source = EvaluatorSource(
        teacher=teacher, importance=importance, windows=windows, space=space, search=search, measurement=measurement
    )
    ranked = source.ordered().ranked
    parameter_bin = bin_.parameter_bin(num_parameters(ranked))
    facts = {
        "teacher": teacher_record["fingerprint"],
        "tokens": tokens.fingerprint,
        "bin": [parameter_bin.low, parameter_bin.high],
        "space": space.model_dump(exclude={"compensation"}),
        "search": facts_of(search.model_copy(update={"num_finalists": 1, "finalist_tokens": 0})),
        "measurement": measurement.model_dump(include={"length", "calibration", "selection", "batch_size"}),
        "precision": measurement.compute().precision,
    }
    strategy = open_strategy(space.search_space(ranked), parameter_bin, search)
    history_file = claim(workspace, "search", facts) / HISTORY
    with evaluating_candidates(source) as evaluate:
        records = run_search(strategy, evaluate, history_file, len(windows), _log_epoch)
    finalists = {
        "fitness": search.fitness,
        "parameter_bin": [parameter_bin.low, parameter_bin.high],
        "num_evaluations": len(records),
        "paper_flops": paper_search_flops(_center(bin_, parameter_bin, ranked)),
        "candidates": [
            _describe(elite.selection, ranked) | {"selection_loss": elite.loss}
            for elite in strategy.elites[: search.num_finalists]
        ],
        "front": [_describe(selection, ranked) | objectives for objectives, selection in strategy.front],
    }
    history = pd.DataFrame([record.to_dict() for record in records]).assign(fitness=search.fitness)
    if search.fitness != PERPLEXITY:
        history = history.drop(columns="perplexity")
    # Columns without any value have no type of their own.
    history = history.astype({"flops_per_token": float, "latency_seconds": float})
    costs = [_cost(records)]
    if search.fitness == DIVERGENCE:
        tokens_read = windows[:, 1:].numel()
        flops = float(tokens_read * forward_flops_per_token(ranked, context=measurement.length))
        costs.append({"stage": "search", "flops": flops, "tokens": tokens_read, "seconds": 0.0})
    return history, finalists, costs


def choose_winner(
    teacher: Path,
    teacher_record: Record,
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    finalists: Record,
    space: SpaceParameters,
    search: SearchSettings,
    measurement: MeasurementParameters,
    schedule: Schedule,
    arm: ArmParameters,
    engine: Engine,
    workspace: Path,
) -> tuple[Record, list[Record]]:
    """Return the finalist that is best on text of its own, cut as it will be exported, and what that look cost."""
    selections = [Selection.from_dict(candidate["selection"]) for candidate in finalists["candidates"]]
    facts = {
        "teacher": teacher_record["fingerprint"],
        "finalists": [candidate["selection"] for candidate in finalists["candidates"]],
        "tokens": tokens.fingerprint,
        "space": space,
        "schedule": schedule.model_copy(update={"tokens": search.finalist_tokens}),
        "arm": arm,
        "heldout": measurement.heldout,
        "precision": measurement.compute().precision,
    }
    finals = Finals(
        teacher=teacher,
        ordered=space.ordered_teacher(teacher, importance).materialise(measurement.compute()),
        tokens=tokens,
        space=space,
        search=search,
        measurement=measurement,
        schedule=schedule,
        arm=arm,
        engine=engine,
        folder=claim(workspace, "finals", facts),
    )
    looks = [finals.look(finalist) for finalist in tqdm(selections, desc="finalists", unit="candidate")]
    choice = choose([look.losses for look in looks])
    candidates = [
        candidate | {"choice_loss": statistics.mean(look.losses)}
        for candidate, look in zip(finalists["candidates"], looks, strict=True)
    ]
    shared = {name: finalists[name] for name in ("fitness", "parameter_bin", "num_evaluations", "paper_flops", "front")}
    told = [{name: candidate[name] for name in candidate if name != "selection"} for candidate in candidates]
    best = {**candidates[choice.winner], **shared, **_confidence(choice), "finalists": told}
    return best | {"finalist_tokens": search.finalist_tokens}, [_cost(looks)]


def _center(bin_: BinParameters, parameter_bin: ParameterBin, ranked: Architecture) -> Architecture:
    """Return the model that the paper would charge a search by."""
    if bin_.reference:
        return bin_.reference.architecture()
    return in_small(ranked, (parameter_bin.low + parameter_bin.high) / 2)


def _describe(selection: Selection, ranked: Architecture) -> Record:
    sizes = selection.architecture(ranked)
    return {
        "selection": selection.to_dict(),
        "description": sizes.describe(),
        "num_parameters": num_parameters(sizes),
    }


def _confidence(choice: Choice) -> Record:
    return {
        "choice_interval": choice.interval,
        "lead": None if choice.runner_up is None else choice.lead,
        "lead_interval": None if choice.runner_up is None else choice.lead_interval,
    }


def _cost(evaluated: Sequence[SearchRecord] | Sequence[Look]) -> Record:
    return {
        "stage": "search",
        "flops": sum(entry.flops for entry in evaluated),
        "tokens": sum(entry.tokens for entry in evaluated),
        "seconds": sum(entry.seconds for entry in evaluated),
    }


def _log_epoch(strategy: Strategy, records: Sequence[SearchRecord]) -> None:
    epoch = records[-1].epoch
    newest = [record.loss for record in records if record.epoch == epoch and math.isfinite(record.loss)]
    metrics = {
        "epoch_median_loss": statistics.median(newest) if newest else math.nan,
        "evaluations": len(records),
        "tokens": sum(record.tokens for record in records),
        "flops": sum(record.flops for record in records),
        **strategy.metrics(),
    }
    track({f"search.{name}": value for name, value in metrics.items()}, epoch)
