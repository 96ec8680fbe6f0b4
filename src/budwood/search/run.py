"""The search loop: ask, race, tell, write down; continues from what an interrupted run wrote down."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from budwood.arch.spec import Architecture
from budwood.records.files import append_json_lines, restore_rows
from budwood.search.candidate import Candidate, Evaluate, Evaluation, SearchRecord, gene_columns
from budwood.search.evolution import Strategy
from budwood.search.genes import Genes
from budwood.search.race import RaceSettings, race

OnEpoch = Callable[[Strategy, Sequence[SearchRecord]], None]

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
    strategy: Strategy,
    evaluate: Evaluate,
    history_file: Path,
    num_sequences: int,
    on_epoch: OnEpoch | None = None,
) -> list[SearchRecord]:
    """Run a strategy to its end.

    Every reading is appended to `history_file` (JSON lines) as soon as it is made. Readings of this search that the
    file already has are not repeated, so a killed search ends with the same records as an uninterrupted one. What
    candidates keep is written beside it (`genes_folder`), a generation at a time, and not kept in memory.

    Args:
        strategy: asked for every generation, whose losses it then gets.
        evaluate: the losses of candidates.
        history_file: belongs to this search alone.
        num_sequences: that a candidate can read; the settings say in which stages it does.
        on_epoch: called after each generation with the strategy and all records so far.

    Raises:
        ValueError: the stages go beyond the sequences, the file is damaged or the history of another search, or no
            candidate has a finite loss.
        OSError: the file cannot be written; what was written before stays valid.
    """
    settings = strategy.proposer.settings
    stages = settings.race(num_sequences)
    records: list[SearchRecord] = []
    losses: dict[str, Sequence[float]] = {}
    genes = Genes(genes_folder(history_file))
    known = {(reading.evaluation, reading.start): reading for reading in read_history(history_file)}
    append_json_lines(history_file, [])
    with tqdm(total=settings.num_evaluations, desc="search", unit="candidate", dynamic_ncols=True) as bar:
        history = _History(evaluate, history_file, bar, known)
        for epoch in range(settings.epochs + 1):
            candidates = strategy.ask()
            if not candidates:
                break
            rivals = [losses[elite.key] for elite in strategy.elites]
            readings = _race(candidates, history, stages, settings.num_elites, rivals)
            generation = [
                _record(strategy.proposer.space.teacher, epoch, candidate, read, stages.stages[-1])
                for candidate, read in zip(candidates, readings, strict=True)
            ]
            genes.write(len(records), [candidate.selection for candidate in candidates])
            records += generation
            finished = {record.key: record for record in generation if record.finished}
            losses |= {key: record.sequence_losses for key, record in finished.items()}
            _warn_of_broken(generation)
            strategy.tell(
                [(c, finished[c.key]) for c in candidates if c.key in finished],
                _dropped(candidates, generation, list(losses.values())),
            )
            history.best = f"{strategy.elites[0].loss:.4g}"
            if on_epoch:
                on_epoch(strategy, records)
    _warn_of_end(strategy, len(records))
    return records


def _warn_of_end(strategy: Strategy, num_read: int) -> None:
    """Warn if a search ended before its last candidate."""
    wanted = strategy.proposer.settings.num_evaluations
    if num_read < wanted:
        _logger.warning(
            "The bin %s has no more sub-networks: the search ends after %s of %s candidates",
            *(strategy.proposer.parameter_bin, f"{num_read:,}", f"{wanted:,}"),
        )


def genes_folder(history_file: Path) -> Path:
    """Return where a search writes down what its candidates keep."""
    return history_file.with_suffix(".genes")


def read_history(history_file: Path) -> list[Reading]:
    """Return the complete readings of a history file.

    Raises:
        ValueError: a line is damaged, or none that this version writes.
    """
    return restore_rows(history_file, lambda row: Reading(**row))


@dataclass(slots=True)
class _History:
    """Readings: taken from an interrupted run where it has them, else made and written down."""

    evaluate: Evaluate
    file: Path
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
            self._require(reading, sequences)
            append_json_lines(self.file, [asdict(reading)])
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
                f"the history has candidate {reading.key} at evaluation {number} where this search proposes "
                f"{candidate.key}: it belongs to another search, remove it to start again"
            )
        self._show(reading)
        return reading

    def _show(self, reading: Reading) -> None:
        rate = self.tokens / (time.perf_counter() - self.started)
        self.bar.set_postfix_str(f"best={self.best}, {rate:,.0f} tokens/s", refresh=False)
        self.bar.update(reading.start == 0)

    def _require(self, reading: Reading, sequences: slice) -> None:
        """Refuse an evaluation of fewer sequences than were asked for."""
        if len(reading.sequence_losses) != sequences.stop - sequences.start:
            raise ValueError(
                f"num_sequences: candidates were to read sequences {sequences.start} to {sequences.stop - 1}, and "
                f"{len(reading.sequence_losses)} losses came back; give the number of sequences that there are"
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


def _record(
    teacher: Architecture, epoch: int, candidate: Candidate, readings: Sequence[Reading], num_sequences: int
) -> SearchRecord:
    losses = list(chain.from_iterable(reading.sequence_losses for reading in readings))
    return SearchRecord(
        evaluation=readings[0].evaluation,
        epoch=epoch,
        origin=candidate.origin,
        sequence_losses=losses,
        tokens=sum(reading.tokens for reading in readings),
        flops=sum(reading.flops for reading in readings),
        seconds=sum(reading.seconds for reading in readings),
        flops_per_token=readings[0].flops_per_token,
        latency_seconds=readings[0].latency_seconds,
        finished=len(losses) == num_sequences and all(map(math.isfinite, losses)),
        **gene_columns(candidate.selection, teacher),
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
