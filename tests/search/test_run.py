"""Law 6 for search: killed and resumed is uninterrupted, in whatever order candidates are evaluated."""

import errno
import gc
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import KINDS, changed, layer, llama

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.space import Granularity, SearchSpace
from budwood.search.candidate import Evaluate, Evaluation, SearchRecord, canonical_key
from budwood.search.evolution import Strategy
from budwood.search.genes import Genes
from budwood.search.run import genes_folder, read_history, run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
HALF = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.2)
SMALL = SearchSettings(population=6, epochs=3, num_elites=3, num_mutants=2, num_crossovers=2, num_randoms=2)
NUM_EVALUATIONS = 24
ALL, RACE = 2, 6
"""Sequences: of a search that reads all at once, and of one whose candidates race."""
RACING = changed(SMALL, stages=(2, 3), deviations=0.5)


class KilledError(Exception):
    """Stands for a process that ends in the middle of an evaluation."""


@dataclass
class CountingEvaluator:
    """A synthetic loss that remembers what it finished, and is killed at one of its calls."""

    killed_at: int | None = None
    finished: list[str] = field(default_factory=list)
    num_sequences: int = 2

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield the losses of candidates, one after the other."""
        for place, selection in enumerate(selections):
            yield place, self.one(selection, sequences)

    def one(self, selection: Selection, sequences: slice = slice(None)) -> Evaluation:
        """Return losses that depend on the genes and the sequence alone."""
        if len(self.finished) == self.killed_at:
            raise KilledError
        self.finished.append(canonical_key(selection))
        loss = int(self.finished[-1], 16) / 2**64
        losses = [loss / (1 + 2 * place) for place in range(self.num_sequences)][sequences]
        return Evaluation(sequence_losses=losses, tokens=len(losses), flops=1.0, seconds=0.25)


def one_by_one(evaluate: Callable[[Selection, slice], Evaluation]) -> Evaluate:
    """Return an evaluator of many from one of single candidates."""

    def evaluate_all(
        selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        for place, selection in enumerate(selections):
            yield place, evaluate(selection, sequences)

    return evaluate_all


def evolution(
    *, granularity: Granularity = "coarse", layerwise: bool = True, chosen: SearchSettings = SMALL
) -> Strategy:
    """Return a strategy that was not asked yet."""
    return open_strategy(SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise), HALF, chosen)


@pytest.fixture(autouse=True)
def _no_disk_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests from waiting for the disk thousands of times."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "num_candidates"),
    [
        (SearchSettings(), 5050),
        (SearchSettings(strategy="pareto", objectives=("parameters",), epochs=9), 500),
    ],
    ids=["paper", "pareto"],
)
def test_a_search_evaluates_all_its_candidates_once_and_keeps_few(
    chosen: SearchSettings, num_candidates: int, tmp_path: Path
) -> None:
    """What candidates keep is on the disk; in memory are a generation, the elites or the front, and the screened."""
    teacher = llama(32, 16, *[layer(4, 2, 8, 32)] * 2)
    space = SearchSpace(teacher=teacher, granularity="fine", layerwise=True)
    evaluate, alive = CountingEvaluator(), []

    def count(_: Strategy, records: Sequence[SearchRecord]) -> None:
        if len(records) % 1000 == 500:
            alive.append(sum(type(each) is Selection for each in gc.get_objects()))

    records = run_search(
        open_strategy(space, ParameterBin.around(0.3 * num_parameters(teacher)), chosen),
        evaluate,
        tmp_path / "history.jsonl",
        ALL,
        count,
    )
    assert len(evaluate.finished) == len(set(evaluate.finished)) == num_candidates
    assert [record.key for record in records] == evaluate.finished
    assert Counter(record.epoch for record in records) == dict.fromkeys(range(num_candidates // 50), 50)
    assert len(alive) == (num_candidates + 500) // 1000
    assert max(alive) < 250


def test_records_say_what_was_evaluated(tmp_path: Path) -> None:
    history_file = tmp_path / "history.jsonl"
    epochs = []
    records = run_search(
        evolution(),
        CountingEvaluator(),
        history_file,
        ALL,
        lambda _, seen: epochs.append((seen[-1].epoch, len(seen))),
    )
    assert [reading.key for reading in read_history(history_file)] == [record.key for record in records]
    assert epochs == [(0, 6), (1, 12), (2, 18), (3, 24)]
    assert [record.evaluation for record in records] == list(range(NUM_EVALUATIONS))
    genes = Genes.open(genes_folder(history_file))
    for record in records:
        selection = genes.read(record.evaluation)
        assert record.key == canonical_key(selection)
        assert record.loss == CountingEvaluator().one(selection).loss
        assert record.num_parameters == num_parameters(selection.architecture(TEACHER))
        assert (record.tokens, record.flops, record.seconds) == (2, 1.0, 0.25)


@pytest.mark.slow
@given(
    kills=st.lists(st.integers(0, NUM_EVALUATIONS - 1), min_size=1, max_size=3),
    torn=st.floats(0, 1, exclude_max=True),
    kind=st.sampled_from(KINDS),
    chosen=st.sampled_from([SMALL, RACING]),
)
@settings(max_examples=16)
def test_killed_and_resumed_is_uninterrupted(
    kills: list[int], torn: float, kind: tuple[Granularity, bool], chosen: SearchSettings
) -> None:
    """Each kill comes at some later evaluation and leaves a beginning of the next line, or none of it."""
    granularity, layerwise = kind

    def search(evaluate: CountingEvaluator, file: Path) -> list[SearchRecord]:
        evaluate.num_sequences = RACE if chosen.stages else ALL
        strategy = evolution(granularity=granularity, layerwise=layerwise, chosen=chosen)
        return run_search(strategy, evaluate, file, evaluate.num_sequences)

    with TemporaryDirectory() as folder:
        whole_file, history_file = Path(folder) / "whole.jsonl", Path(folder) / "history.jsonl"
        whole = search(CountingEvaluator(), whole_file)
        lines = whole_file.read_bytes().splitlines()
        finished: list[str] = []
        for killed_at in kills:
            evaluate = CountingEvaluator(killed_at=min(killed_at, len(lines) - 1 - len(finished)))
            with pytest.raises(KilledError):
                search(evaluate, history_file)
            finished += evaluate.finished
            with history_file.open("ab") as file:
                file.write(lines[len(finished)][: int(torn * len(lines[len(finished)]))])
        evaluate = CountingEvaluator()
        resumed = search(evaluate, history_file)
        finished += evaluate.finished
        assert resumed == whole
        assert history_file.read_bytes() == whole_file.read_bytes()
        assert finished == [json.loads(line)["key"] for line in lines]


@pytest.mark.slow
def test_a_screened_search_chooses_again_what_it_chose(tmp_path: Path) -> None:
    """What a model of the losses picks depends on nothing else, whoever was dropped and however often it was killed."""
    chosen = changed(RACING, screening=5, num_mutants=4, num_crossovers=1, num_randoms=1)
    searches = [evolution(chosen=chosen) for _ in range(3)]
    whole = run_search(searches[0], CountingEvaluator(num_sequences=6), tmp_path / "whole.jsonl", RACE)
    assert not all(record.finished for record in whole)
    with pytest.raises(KilledError):
        run_search(searches[1], CountingEvaluator(killed_at=20, num_sequences=6), tmp_path / "killed.jsonl", RACE)
    assert run_search(searches[2], CountingEvaluator(num_sequences=6), tmp_path / "killed.jsonl", RACE) == whole


def test_the_order_of_evaluation_does_not_matter(tmp_path: Path) -> None:
    """Workers hand results back as they come, and a kill leaves gaps; both end with the same records."""
    whole = run_search(evolution(chosen=RACING), CountingEvaluator(num_sequences=6), tmp_path / "whole.jsonl", RACE)

    def backwards(selections: Sequence[Selection], sequences: slice = slice(None)) -> Iterator[tuple[int, Evaluation]]:
        yield from reversed(list(CountingEvaluator(num_sequences=6)(selections, sequences)))

    assert run_search(evolution(chosen=RACING), backwards, tmp_path / "backwards.jsonl", RACE) == whole
    lines = (tmp_path / "backwards.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "gaps.jsonl").write_bytes(b"".join(lines[:9]))
    assert run_search(evolution(chosen=RACING), backwards, tmp_path / "gaps.jsonl", RACE) == whole


def test_a_finished_search_evaluates_nothing(tmp_path: Path) -> None:
    records = run_search(evolution(), CountingEvaluator(), tmp_path / "history.jsonl", ALL)
    epochs = []
    again = run_search(
        evolution(),
        CountingEvaluator(killed_at=0),
        tmp_path / "history.jsonl",
        ALL,
        lambda _, seen: epochs.append(seen[-1].epoch),
    )
    assert again == records
    assert epochs == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_search_ends_with_the_last_member_of_its_bin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of sixteen members the third generation of six finds four, and the fourth none."""
    space = SearchSpace(teacher=llama(1, 2, *[layer(2, 2, 4, 2)] * 2), layerwise=False)
    chosen = changed(SMALL, strategy="random", sampling="rejection")

    def search(evaluator: CountingEvaluator) -> list[str]:
        strategy = open_strategy(space, ParameterBin(*space.reach), chosen)
        return [record.key for record in run_search(strategy, evaluator, tmp_path / "history.jsonl", ALL)]

    found = search(CountingEvaluator())
    assert len(set(found)) == len(found) == 16
    assert "has no more sub-networks: the search ends after 16 of 24 candidates" in caplog.text
    assert search(CountingEvaluator(killed_at=0)) == found


def test_a_torn_line_does_not_count(tmp_path: Path) -> None:
    history_file = tmp_path / "history.jsonl"
    run_search(evolution(), CountingEvaluator(), history_file, ALL)
    whole = history_file.read_bytes()
    history_file.write_bytes(whole + b'{"sequence_losses": [1.')
    assert len(read_history(history_file)) == NUM_EVALUATIONS
    run_search(evolution(), CountingEvaluator(killed_at=0), history_file, ALL)
    assert history_file.read_bytes() == whole
    assert read_history(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("line", ['{"evaluation": 0, "tokens": 4}', "[1]", "no JSON"])
def test_a_history_of_another_version_is_named(line: str, tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text(f"{line}\n")
    with pytest.raises(
        ValueError,
        match=r"history\.jsonl(, line 1, is damaged| was written by another).*remove the file",
    ):
        read_history(history)
    assert history.read_text() == f"{line}\n"


@pytest.mark.parametrize(
    "other",
    [
        evolution(chosen=changed(SMALL, seed=7)),
        evolution(layerwise=False),
        evolution(granularity="fine"),
        open_strategy(SearchSpace(teacher=TEACHER, layerwise=True), ParameterBin.around(3000), SMALL),
    ],
    ids=["seed", "layers", "granularity", "bin"],
)
def test_the_history_of_another_search_is_refused(other: Strategy, tmp_path: Path) -> None:
    history_file = tmp_path / "history.jsonl"
    records = run_search(evolution(), CountingEvaluator(), history_file, ALL)
    before, evaluate = history_file.read_bytes(), CountingEvaluator()
    with pytest.raises(ValueError, match=f"has candidate {records[0].key} at evaluation 0.*another search"):
        run_search(other, evaluate, history_file, ALL)
    assert not evaluate.finished
    assert history_file.read_bytes() == before


def test_a_loss_that_is_not_a_number_is_written_and_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Broken candidates end no search, win nothing, and are told of."""

    def evaluate(selection: Selection, sequences: slice) -> Evaluation:
        broken = int(canonical_key(selection), 16) % 3 == 0
        losses = [float("nan") if broken else 1e6] * 2
        return Evaluation(sequence_losses=losses[sequences], tokens=1, flops=1.0, seconds=0.0)

    strategy = evolution()
    records = run_search(strategy, one_by_one(evaluate), tmp_path / "history.jsonl", ALL)
    assert 0 < sum(math.isnan(record.loss) for record in records) < NUM_EVALUATIONS
    assert [record.finished for record in records] == [not math.isnan(record.loss) for record in records]
    assert all(elite.loss == 1e6 for elite in strategy.elites)
    assert [reading.key for reading in read_history(tmp_path / "history.jsonl")] == [record.key for record in records]
    assert "of 6 candidates of generation" in caplog.text
    assert "have no finite loss and are dropped" in caplog.text


@pytest.mark.parametrize("stages", [(), (2, 3)])
@pytest.mark.parametrize("strategy", ["evolution", "random", "local", "pareto"])
def test_a_search_in_which_nothing_is_finite_says_what_to_check(strategy, stages, tmp_path: Path) -> None:
    def evaluate(selection: Selection, sequences: slice) -> Evaluation:
        del selection
        losses = [math.inf, 1.0, math.nan, 1.0, 1.0, 1.0][sequences]
        return Evaluation(sequence_losses=losses, tokens=1, flops=1.0, seconds=0.0)

    pareto = {"objectives": ("parameters",), "stages": ()} if strategy == "pareto" else {"stages": stages}
    search = evolution(chosen=changed(SMALL, strategy=strategy, screening=3, **pareto))
    with pytest.raises(ValueError, match=r"no candidate of the first generation has a finite loss: check the weights"):
        run_search(search, one_by_one(evaluate), tmp_path / "history.jsonl", 6)


@pytest.mark.parametrize("num_sequences", [1, 2, 3])
def test_stages_beyond_the_sequences_are_refused_before_anything_is_read(num_sequences, tmp_path: Path) -> None:
    evaluate = CountingEvaluator(num_sequences=num_sequences)
    with pytest.raises(ValueError, match=f"stages ends at 3 but {num_sequences} sequences are given"):
        run_search(evolution(chosen=RACING), evaluate, tmp_path / "history.jsonl", num_sequences)
    assert not evaluate.finished


def test_fewer_losses_than_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"were to read sequences 0 to 4, and 4 losses came back"):
        run_search(evolution(), CountingEvaluator(num_sequences=4), tmp_path / "history.jsonl", 5)


def test_a_race_spares_readings_and_finds_the_same_elites(tmp_path: Path) -> None:
    """The candidates keep their order on every sequence, so whoever is dropped was rightly dropped."""
    raced, full = evolution(chosen=RACING), evolution()
    records = run_search(raced, CountingEvaluator(num_sequences=6), tmp_path / "raced.jsonl", RACE)
    complete = run_search(full, CountingEvaluator(num_sequences=6), tmp_path / "full.jsonl", RACE)
    assert [record.key for record in records] == [record.key for record in complete]
    assert [(elite.key, elite.loss) for elite in raced.elites] == [(elite.key, elite.loss) for elite in full.elites]
    assert sum(record.tokens for record in records) < sum(record.tokens for record in complete)
    for record, whole in zip(records, complete, strict=True):
        assert record.sequence_losses == whole.sequence_losses[: len(record.sequence_losses)]
        assert record.tokens == len(record.sequence_losses)
        assert record.finished is (len(record.sequence_losses) == 6)
    assert {len(record.sequence_losses) for record in records} >= {2, 6}


def test_a_history_that_cannot_be_opened_is_told_before_anything_is_evaluated(tmp_path: Path) -> None:
    evaluate = CountingEvaluator()
    with pytest.raises(OSError, match=r"cannot write .*absent/history.jsonl: No such file"):
        run_search(evolution(), evaluate, tmp_path / "absent" / "history.jsonl", ALL)
    assert not evaluate.finished


def test_a_full_disk_ends_the_search_and_spares_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history_file = tmp_path / "history.jsonl"
    whole = run_search(evolution(), CountingEvaluator(), tmp_path / "whole.jsonl", ALL)
    left = [6]

    def fsync(_descriptor: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=r"cannot write .*history.jsonl: No space left.*run again"):
            run_search(evolution(), CountingEvaluator(), history_file, ALL)
    assert len(read_history(history_file)) == 5
    assert run_search(evolution(), CountingEvaluator(), history_file, ALL) == whole
