"""The search loop: ask, evaluate, tell, write down; continues from what an interrupted run wrote down."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from budwood.arch.selection import Selection
from budwood.search.candidate import Candidate, Evaluate, Evaluation, SearchRecord, gene_columns
from budwood.search.strategy import Evolution

OnEpoch = Callable[[int, Sequence[SearchRecord]], None]


def run_search(
    strategy: Evolution, evaluate: Evaluate, history_file: Path, on_epoch: OnEpoch | None = None
) -> list[SearchRecord]:
    """Run a strategy to its end.

    Every evaluation is appended to `history_file` (JSON lines) before the next begins. Where the file already holds
    evaluations of this search they are told instead of repeated, so a killed search ends with the same history as an
    uninterrupted one.

    Args:
        strategy: asked and told, generation by generation.
        evaluate: the losses of one candidate.
        history_file: belongs to this search alone.
        on_epoch: called after each generation with its number and all records so far.

    Raises:
        ValueError: the file holds the history of another search.
    """
    replayed = read_history(history_file)
    records: list[SearchRecord] = []
    total = strategy.settings.num_evaluations
    with tqdm(total=total, desc="search", unit="candidate", dynamic_ncols=True) as bar, history_file.open("a") as file:
        while not strategy.done:
            results = []
            for candidate in strategy.ask():
                if len(records) < len(replayed):
                    record = _replay(replayed[len(records)], candidate)
                else:
                    record = _record(strategy, candidate, len(records), evaluate(candidate.selection))
                    _append(file.fileno(), record)
                records.append(record)
                results.append((candidate, record.loss))
                bar.update()
            strategy.tell(results)
            bar.set_postfix(best=f"{strategy.elites[0][0]:.3f} nats", refresh=False)
            if on_epoch:
                on_epoch(strategy.epoch, records)
    return records


def choose_winner(finalists: Sequence[Selection], evaluate: Evaluate) -> tuple[Selection, list[Evaluation]]:
    """Return the finalist with the lowest loss on text that the search has not seen, and all their evaluations.

    A search picks the candidate that its own text flatters most; a second look takes that away. The first of equals
    wins, and NaN is worse than any number.
    """
    evaluations = [
        evaluate(finalist) for finalist in tqdm(finalists, desc="finalists", unit="candidate", dynamic_ncols=True)
    ]
    losses = [evaluation.loss for evaluation in evaluations]
    best = min(range(len(finalists)), key=lambda position: (math.isnan(losses[position]), losses[position]))
    return finalists[best], evaluations


def read_history(history_file: Path) -> list[SearchRecord]:
    """Return the complete records of a history file; a last line torn by a kill is cut off the file."""
    if not history_file.exists():
        return []
    text = history_file.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    if len(complete) < len(text):
        with history_file.open("r+b") as file:
            file.truncate(len(complete))
    return [SearchRecord(**json.loads(line)) for line in complete.splitlines()]


def _replay(record: SearchRecord, candidate: Candidate) -> SearchRecord:
    if record.key != candidate.key:
        raise ValueError(
            f"the history holds candidate {record.key} at evaluation {record.evaluation} where this search proposes "
            f"{candidate.key}: it belongs to another search, remove it to start anew"
        )
    return record


def _record(strategy: Evolution, candidate: Candidate, index: int, evaluation: Evaluation) -> SearchRecord:
    return SearchRecord(
        evaluation=index,
        epoch=strategy.epoch,
        origin=candidate.origin,
        loss=evaluation.loss,
        perplexity=math.exp(min(evaluation.loss, 700.0)),
        tokens=evaluation.tokens,
        flops=evaluation.flops,
        seconds=evaluation.seconds,
        **gene_columns(candidate.selection, strategy.space.teacher),
    )


def _append(descriptor: int, record: SearchRecord) -> None:
    os.write(descriptor, (json.dumps(record.to_dict()) + "\n").encode())
    os.fsync(descriptor)
