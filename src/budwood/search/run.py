"""The search loop: ask, race, tell, write down; continues from what an interrupted run wrote down."""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

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
    start: int
    """Number of the first sequence."""


def run_search(
    strategy: Evolution,
    evaluate: Evaluate,
    history_file: Path,
    stages: RaceSettings,
    on_epoch: OnEpoch | None = None,
) -> list[SearchRecord]:
    """Run a strategy to its end.

    Every reading is appended to `history_file` (JSON lines) as soon as it is made. Where the file already holds
    readings of this search they are told instead of repeated, so a killed search ends with the same records as an
    uninterrupted one.

    Args:
        strategy: asked and told, generation by generation.
        evaluate: the losses of candidates.
        history_file: belongs to this search alone.
        stages: how the candidates of a generation race, with the elites as rivals.
        on_epoch: called after each generation with the strategy and all records so far.

    Raises:
        ValueError: the file holds the history of another search, or no candidate has a finite loss.
        OSError: the file cannot be written; what was written before stays valid.
    """
    records: list[SearchRecord] = []
    losses: dict[str, Sequence[float]] = {}
    known = read_history(history_file)
    total = strategy.settings.num_evaluations
    bar = tqdm(total=total, desc="search", unit="candidate", dynamic_ncols=True)
    with bar, _open(history_file) as file:
        history = _History(evaluate, file, bar, {(reading.evaluation, reading.start): reading for reading in known})
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
            strategy.tell(
                [(c, finished[c.key]) for c in candidates if c.key in finished],
                _dropped(candidates, generation, list(losses.values())),
            )
            _warn_of_broken(generation)
            history.best = f"{strategy.elites[0][0]:.4g}"
            if on_epoch:
                on_epoch(strategy, records)
    return records


def read_history(history_file: Path) -> list[Reading]:
    """Return the complete readings of a history file; a last line torn by a kill is cut off the file.

    Raises:
        ValueError: a line is none that this version writes.
    """
    if not history_file.exists():
        return []
    text = history_file.read_bytes()
    complete = text[: text.rfind(b"\n") + 1]
    if len(complete) < len(text):
        with history_file.open("r+b") as file:
            file.truncate(len(complete))
    try:
        return [Reading(**json.loads(line)) for line in complete.splitlines()]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{history_file} is damaged or was written by another version of budwood ({error}); remove it"
        ) from None


@dataclass(slots=True)
class _History:
    """Readings: taken from an interrupted run where it has them, else made and written down."""

    evaluate: Evaluate
    file: FileIO
    bar: "tqdm[NoReturn]"
    known: dict[tuple[int, int], Reading]
    """Readings of an interrupted run, by candidate and first sequence."""
    best: str = "-"
    numbers: dict[str, int] = field(default_factory=dict)
    """Of candidates, by key, in the order in which they were proposed."""
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)

    def read(self, candidates: Sequence[Candidate], sequences: slice) -> list[Reading]:
        """Return what every candidate reads next."""
        numbers = [self.numbers.setdefault(candidate.key, len(self.numbers)) for candidate in candidates]
        readings = [
            self._replay(candidate, number, sequences) for candidate, number in zip(candidates, numbers, strict=True)
        ]
        missing = [place for place, reading in enumerate(readings) if reading is None]
        for position, made in self.evaluate([candidates[place].selection for place in missing], sequences):
            place = missing[position]
            reading = Reading(
                evaluation=numbers[place], key=candidates[place].key, start=sequences.start, **asdict(made)
            )
            self._append(json.dumps(asdict(reading)).encode() + b"\n")
            self.tokens += reading.tokens
            self._show(reading)
            readings[place] = reading
        return [reading for reading in readings if reading is not None]

    def _replay(self, candidate: Candidate, number: int, sequences: slice) -> Reading | None:
        reading = self.known.get((number, sequences.start))
        if reading is None:
            return None
        if (reading.key, len(reading.sequence_losses)) != (candidate.key, sequences.stop - sequences.start):
            raise ValueError(
                f"the history holds candidate {reading.key} at evaluation {number} where this search proposes "
                f"{candidate.key}: it belongs to another search, remove it to start anew"
            )
        self._show(reading)
        return reading

    def _show(self, reading: Reading) -> None:
        rate = self.tokens / (time.perf_counter() - self.started)
        self.bar.set_postfix_str(f"best={self.best}, {rate:,.0f} tokens/s", refresh=False)
        self.bar.update(reading.start == 0)

    def _append(self, line: bytes) -> None:
        try:
            written = self.file.write(line)
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _unwritable(self.file.name, error) from error
        if written != len(line):
            raise _unwritable(self.file.name, OSError(errno.ENOSPC, "no room for a whole line"))


def _open(history_file: Path) -> FileIO:
    try:
        return history_file.open("ab", buffering=0)
    except OSError as error:
        raise _unwritable(history_file, error) from error


def _unwritable(file: object, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"the search cannot write its history {file}: {error.strerror}. All that it wrote before is kept; make room or "
        "give it the right to write there, and run again to continue",
    )


def _race(
    candidates: Sequence[Candidate],
    history: _History,
    stages: RaceSettings,
    num_elites: int,
    rivals: Sequence[Sequence[float]],
) -> list[list[Reading]]:
    readings: list[list[Reading]] = [[] for _ in candidates]

    def read(places: Sequence[int], sequences: slice) -> list[Sequence[float]]:
        made = history.read([candidates[place] for place in places], sequences)
        for place, reading in zip(places, made, strict=True):
            readings[place].append(reading)
        return [reading.sequence_losses for reading in made]

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
        flops_per_token=readings[0].flops_per_token,
        latency_seconds=readings[0].latency_seconds,
        finished=len(losses) == num_sequences and all(map(math.isfinite, losses)),
        **gene_columns(candidate.selection, strategy.space.teacher),
    )


def _dropped(
    candidates: Sequence[Candidate], generation: Sequence[SearchRecord], known: Sequence[Sequence[float]]
) -> list[tuple[Candidate, float]]:
    """Return the candidates that a race dropped, with their losses as those who read all text would have them.

    What is left of the text is as much harder or easier for them as for the others.
    """
    if not known:
        return []
    finished = np.array(known)
    return [
        (candidate, record.loss + float((finished.mean(1) - finished[:, : len(record.sequence_losses)].mean(1)).mean()))
        for candidate, record in zip(candidates, generation, strict=True)
        if not record.finished and math.isfinite(record.loss)
    ]


def _warn_of_broken(generation: Sequence[SearchRecord]) -> None:
    broken = [record for record in generation if not math.isfinite(record.loss)]
    if broken:
        _logger.warning(
            "%d of %d candidates of generation %d have no finite loss and are dropped; the first is %s",
            *(len(broken), len(generation), broken[0].epoch, broken[0].key),
        )
