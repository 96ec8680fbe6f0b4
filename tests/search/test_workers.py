"""Two Ray workers on this machine: one killed, one candidate that kills whoever takes it, and the same history."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest
from projects import ROOT
from ray.cluster_utils import Cluster
from strategies import changed, layer, llama
from synthetic import Evaluator, open_evaluator

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.pipelines.failure import show
from budwood.search import workers
from budwood.search.candidate import Evaluate
from budwood.search.genes import Genes
from budwood.search.run import genes_folder, run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy
from budwood.search.workers import RayEvaluate

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
HALF = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.2)
SETTINGS = SearchSettings(
    population=8, epochs=1, num_elites=3, num_mutants=4, num_crossovers=2, num_randoms=2, stages=(2,)
)
NUM_SEQUENCES = 4
PATHS = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])


def pairs(selections: Sequence[Selection]) -> list[list[int]]:
    """Return the places of candidates, two by two."""
    places = list(range(len(selections)))
    return [places[start : start + 2] for start in range(0, len(places), 2)]


def search(evaluate: Evaluate, history_file: Path) -> list[object]:
    """Run a small search."""
    strategy = open_strategy(SearchSpace(teacher=TEACHER, layerwise=True), HALF, SETTINGS)
    return [*run_search(strategy, evaluate, history_file, NUM_SEQUENCES), *strategy.elites]


def processes() -> set[psutil.Process]:
    """Return what this process has started, and what that has."""
    return set(psutil.Process().children(recursive=True))


@pytest.fixture
def whole(tmp_path: Path) -> list[object]:
    """Return what the search finds in one process."""
    return search(Evaluator(tmp_path), tmp_path / "whole.jsonl")


@pytest.fixture
def keys(whole: list[object]) -> list[str]:
    return [record.key for record in whole if hasattr(record, "key")]


# The first in this file: a process has one Ray at a time, and `workers_of` keeps it to the end.
@pytest.mark.slow
def test_a_node_that_is_lost_takes_no_candidate_with_it(tmp_path, monkeypatch, whole) -> None:
    """Two Ray nodes, both this machine; one is killed once both evaluate. The history is that of one process.

    All processes end, those of the killed node too.
    """
    others, started = processes(), set()
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")  # a lost node is noticed after 15 seconds otherwise
    # Where Ray listens is its choice: of 127.0.0.1 it makes this machine's address when it joins a cluster.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)

        def lose() -> None:
            deadline = time.monotonic() + 120
            while len(list(tmp_path.glob("opened-*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            started.update(processes() - others)
            cluster.remove_node(lost, allow_graceful=False)

        losing = threading.Thread(target=lose)
        losing.start()
        slow = partial(open_evaluator, Evaluator(tmp_path, delay=0.1))
        with RayEvaluate(slow, pairs, num_workers=2) as evaluate:
            assert search(evaluate, tmp_path / "lost.jsonl") == whole
        losing.join()
        assert len(list(tmp_path.glob("opened-*"))) >= 2
    finally:
        started.update(processes() - others)
        cluster.shutdown()
    assert len(started) > 4  # of either node what leads it and a worker, at least
    assert psutil.wait_procs(started, timeout=20)[1] == []


@pytest.fixture(scope="module")
def workers_of() -> Iterator[Callable[[Evaluator], RayEvaluate]]:
    """Start two workers once, and return a maker of what evaluates in them.

    They start in spite of the address of a dead cluster, which Ray leaves behind where one was killed.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="r") as short:
        # The path of a socket has 107 characters at most.
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("PYTHONPATH", PATHS)
        patch.delenv("RAY_ADDRESS", raising=False)
        (Path(short) / "ray").mkdir()
        (Path(short) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        with RayEvaluate(partial(open_evaluator, Evaluator(Path(short))), pairs, num_workers=2) as running:

            def make(evaluator: Evaluator) -> RayEvaluate:
                other = RayEvaluate(partial(open_evaluator, evaluator), pairs, num_workers=2)
                other._ray, other._task = running._ray, running._task
                other._shared = running._ray.put(other._open)
                return other

            yield make


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(workers_of, whole, keys, tmp_path) -> None:
    assert search(workers_of(Evaluator(tmp_path, killed_once=keys[3])), tmp_path / "killed.jsonl") == whole
    assert (tmp_path / "killed").exists()
    assert 2 <= len(list(tmp_path.glob("opened-*"))) <= 4


@pytest.mark.slow
def test_poison_harms_only_itself(workers_of, keys, tmp_path) -> None:
    strategy = open_strategy(SearchSpace(teacher=TEACHER, layerwise=True), HALF, changed(SETTINGS, epochs=0))
    evaluate = workers_of(Evaluator(tmp_path, poison=keys[2]))
    records = run_search(strategy, evaluate, tmp_path / "poison.jsonl", NUM_SEQUENCES)
    assert [record.finished for record in records if record.key == keys[2]] == [False]
    assert [record.key for record in records] == keys[: SETTINGS.population]


@pytest.mark.slow
def test_an_error_of_a_candidate_ends_the_search(workers_of, whole, keys, tmp_path, capsys) -> None:
    """A bug is shown with the traceback of the worker, and what budwood refuses there as its message alone."""
    assert whole
    first = Genes.open(genes_folder(tmp_path / "whole.jsonl")).read(0)
    with pytest.raises(ArithmeticError, match=keys[0]) as bug:
        list(workers_of(Evaluator(tmp_path, wrong=keys[0]))([first], slice(0, 2)))
    show(bug.type, bug.value, bug.tb)
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert "raise ArithmeticError(key)" in said
    with pytest.raises(ValueError, match="bins") as refused:
        list(workers_of(Evaluator(tmp_path, refused=keys[0]))([first], slice(0, 2)))
    show(refused.type, refused.value, refused.tb)
    said = capsys.readouterr().err
    assert said.startswith("\nError: bins: the name '0.5b' must be made of letters and digits")
    assert said.count("\n") == 2, "one message"


def test_workers_that_would_wait_for_ever_for_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 0.5})
    monkeypatch.setattr("ray.shutdown", lambda: ended.append(True))
    with (
        pytest.raises(ValueError, match=r"search.gpus_per_worker=1: Ray's machines have 0.5 GPUs, so no worker"),
        RayEvaluate(lambda: None, pairs, num_workers=2, num_gpus=1),
    ):
        pass
    assert ended == [True]


@pytest.mark.parametrize(("named", "expected"), [(None, "local"), ("ray://head:10001", None)])
def test_only_a_named_cluster_is_joined(
    monkeypatch: pytest.MonkeyPatch, named: str | None, expected: str | None
) -> None:
    """Ray keeps the address of a cluster that was started here, and fails to join it where that one is dead."""
    given: dict[str, object] = {}
    monkeypatch.setattr("ray.init", given.update)
    monkeypatch.setattr("ray.remote", lambda **_: lambda function: function)
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    with RayEvaluate(lambda: None, pairs, num_workers=2):
        assert given.get("address") == expected


@pytest.mark.slow
def test_workers_without_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'budwood\[ray\]'"):
        RayEvaluate(lambda: None, pairs, 2)
