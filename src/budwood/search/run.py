"""The search loop: ask, race, tell, write down; continues from what an interrupted run wrote down."""

import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from budwood.arch.selection import Selection
from budwood.search.candidate import Candidate, Evaluate, Evaluation, SearchRecord, gene_columns
from budwood.search.race import RaceSettings, race
from budwood.search.strategy import Evolution

OnEpoch = Callable[[Evolution, Sequence[SearchRecord]], None]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Evaluation):
    """What a candidate read in one stage of its race: a line of the history file."""

    evaluation: int
    """Number of the candidate."""
    key: str
    """Of the candidate."""


def run_search(
    strategy: Evolution,
    evaluate: Evaluate,
    history_file: Path,
    stages: RaceSettings,
    on_epoch: OnEpoch | None = None,
) -> list[SearchRecord]:
    """Run a strategy to its end.

    Every reading is appended to `history_file` (JSON lines) before the next begins. Where the file already holds
    readings of this search they are told instead of repeated, so a killed search ends with the same history as an
    uninterrupted one.

    Args:
        strategy: asked and told, generation by generation.
        evaluate: the losses of one candidate.
        history_file: belongs to this search alone.
        stages: how the candidates of a generation race, with the elites as rivals.
        on_epoch: called after each generation with the strategy and all records so far.

    Raises:
        ValueError: the file holds the history of another search, or no candidate has a finite loss.
        OSError: the file cannot be written; what was written before stays valid.
    """
    records: list[SearchRecord] = []
    losses: dict[str, Sequence[float]] = {}
    replayed = deque(read_history(history_file))
    total = strategy.settings.num_evaluations
    bar = tqdm(total=total, desc="search", unit="candidate", dynamic_ncols=True)
    with bar, history_file.open("ab", buffering=0) as file:
        history = _History(evaluate, file, replayed)
        while not strategy.done:
            candidates = strategy.ask()
            rivals = [losses[key] for key in strategy.elite_keys]
            readings = _race(candidates, history, stages, strategy.settings.num_elites, rivals)
            generation = [
                _record(strategy, candidate, read, stages.stages[-1])
                for candidate, read in zip(candidates, readings, strict=True)
            ]
            records += generation
            finished = {record.key: record for record in generation if record.finished}
            losses |= {key: record.sequence_losses for key, record in finished.items()}
            strategy.tell([(c, finished[c.key].loss) for c in candidates if c.key in finished])
            _warn_of_broken(generation)
            bar.update(len(generation))
            bar.set_postfix(best=f"{strategy.elites[0][0]:.3f} nats", refresh=False)
            if on_epoch:
                on_epoch(strategy, records)
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


def read_history(history_file: Path) -> list[Reading]:
    """Return the complete readings of a history file; a last line torn by a kill is cut off the file."""
    if not history_file.exists():
        return []
    text = history_file.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    if len(complete) < len(text):
        with history_file.open("r+b") as file:
            file.truncate(len(complete))
    return [Reading(**json.loads(line)) for line in complete.splitlines()]


@dataclass(slots=True)
class _History:
    """Readings: taken from an interrupted run while it has some, then made and written down."""

    evaluate: Evaluate
    file: FileIO
    replayed: deque[Reading]
    numbers: dict[str, int] = field(default_factory=dict)
    """Of candidates, by key, in the order in which they first read."""

    def read(self, candidate: Candidate, sequences: slice) -> Reading:
        """Return what a candidate reads next."""
        evaluation = self.numbers.setdefault(candidate.key, len(self.numbers))
        if self.replayed:
            return self._replay(evaluation, candidate)
        made = self.evaluate(candidate.selection, sequences)
        reading = Reading(evaluation=evaluation, key=candidate.key, **asdict(made))
        self._append(json.dumps(asdict(reading)).encode() + b"\n")
        return reading

    def _replay(self, evaluation: int, candidate: Candidate) -> Reading:
        reading = self.replayed.popleft()
        if (reading.evaluation, reading.key) != (evaluation, candidate.key):
            raise ValueError(
                f"the history holds candidate {reading.key} at evaluation {reading.evaluation} where this search "
                f"proposes {candidate.key} at {evaluation}: it belongs to another search, remove it to start anew"
            )
        return reading

    def _append(self, line: bytes) -> None:
        try:
            written = self.file.write(line)
            os.fsync(self.file.fileno())
        except OSError as error:
            raise OSError(error.errno, self._advice(error.strerror or "unknown reason")) from error
        if written != len(line):
            raise OSError(self._advice("no room for a whole line"))

    def _advice(self, reason: str) -> str:
        return (
            f"the search cannot write its history {self.file.name}: {reason}. All that it wrote before is kept; make "
            "room and run again to continue"
        )


def _race(
    candidates: Sequence[Candidate],
    history: _History,
    stages: RaceSettings,
    num_elites: int,
    rivals: Sequence[Sequence[float]],
) -> list[list[Reading]]:
    readings: list[list[Reading]] = [[] for _ in candidates]

    def read(place: int, sequences: slice) -> Sequence[float]:
        readings[place].append(history.read(candidates[place], sequences))
        return readings[place][-1].sequence_losses

    race(read, len(candidates), stages, num_elites, rivals)
    return readings


def _record(strategy: Evolution, candidate: Candidate, readings: Sequence[Reading], num_sequences: int) -> SearchRecord:
    losses = list(chain.from_iterable(reading.sequence_losses for reading in readings))
    return SearchRecord(
        evaluation=readings[0].evaluation,
        epoch=strategy.epoch,
        origin=candidate.origin,
        sequence_losses=losses,
        tokens=sum(reading.tokens for reading in readings),
        flops=sum(reading.flops for reading in readings),
        seconds=sum(reading.seconds for reading in readings),
        finished=len(losses) == num_sequences and all(map(math.isfinite, losses)),
        **gene_columns(candidate.selection, strategy.space.teacher),
    )


def _warn_of_broken(generation: Sequence[SearchRecord]) -> None:
    broken = [record for record in generation if not math.isfinite(record.loss)]
    if broken:
        _logger.warning(
            "%d of %d candidates of generation %d have no finite loss and are dropped; the first is %s",
            *(len(broken), len(generation), broken[0].epoch, broken[0].key),
        )
