"""A worker opens its evaluator, or says in a sentence why it cannot; a search that is killed continues with its own."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from budwood.arch.selection import Selection
from budwood.records.files import read_json_lines
from budwood.search.candidate import Evaluate, Evaluation
from budwood.search.settings import SearchSettings
from budwood.study import moments
from budwood.study import search as searching
from budwood.study.evaluators import EvaluatorSource
from budwood.study.search import HISTORY, EvolveSubnets
from budwood.study.settings import BinSettings
from budwood.study.stage import Workspace
from budwood.study.teacher import RankComponents
from budwood.subnet.compensate import store_moments
from budwood.subnet.moments import StoredMoments
from budwood.subnet.settings import Compensation, SpaceSettings


class KilledError(Exception):
    """Stands for a process that ends in the middle of a search."""


@pytest.mark.parametrize("missing", ["teacher", "moments"])
def test_a_worker_node_without_the_data_folder_says_so(materials, missing, tmp_path):
    absent = tmp_path / "elsewhere"
    source = EvaluatorSource(
        teacher=replace(materials.teacher, folder=absent) if missing == "teacher" else materials.teacher,
        importance={},
        windows=torch.zeros(1, 9, dtype=torch.int64),
        space=SpaceSettings(layerwise=False, ordering="native"),
        search=SearchSettings(),
        compute=materials.compute,
        batch_size=1,
        moments=StoredMoments(absent) if missing == "moments" else None,
    )
    with pytest.raises(
        ValueError, match=f"search.workers: .*elsewhere is not on {socket.gethostname()}: every node needs"
    ):
        source.open()


@pytest.fixture
def corrected(materials, workspace) -> EvolveSubnets:
    """Return a search that compares corrected candidates in a race; neighbours, which share their first layers."""
    space = SpaceSettings(layerwise=True, layer_score="influence", compensation=Compensation())
    sizes = {"population": 6, "epochs": 1, "num_elites": 3, "num_mutants": 4, "num_crossovers": 1, "num_randoms": 1}
    settings = SearchSettings(**sizes, strategy="local", stages=(2,), compare="corrected")
    own = replace(materials, measurement=materials.measurement.model_copy(update={"selection": 3}))
    importance = workspace.finish(RankComponents.of(own, eliminates=False)).importance
    return EvolveSubnets.of(own, importance, BinSettings(fraction=0.6), space, settings)


@contextmanager
def killed_after(num_readings: int, source: EvaluatorSource) -> Iterator[Evaluate]:
    """Open the evaluator of a process that ends after so many readings."""
    left = iter(range(num_readings))

    def evaluate(selections: Sequence[Selection], sequences: slice = slice(None)) -> Iterator[tuple[int, Evaluation]]:
        for made in source.open()(selections, sequences):
            if next(left, None) is None:
                raise KilledError
            yield made

    yield evaluate


@pytest.mark.slow
def test_a_killed_search_of_corrected_candidates_ends_as_an_uninterrupted_one(corrected, tmp_path, monkeypatch):
    """To the last bit, though one runs again the layers that it shared with a candidate before.

    Moments are gathered once, for a search of another bin too.
    """
    whole = Workspace(folder=tmp_path / "whole").finish(corrected)
    gathered = []

    def gather(*given, **named) -> StoredMoments:
        gathered.append(given)
        return store_moments(*given, **named)

    monkeypatch.setattr(moments, "store_moments", gather)
    own, num_readings = Workspace(folder=tmp_path / "killed"), 15
    with monkeypatch.context() as patch:
        patch.setattr(searching, "evaluating_candidates", partial(killed_after, num_readings))
        with pytest.raises(KilledError):
            own.finish(corrected)
    (history,) = own.folder.glob(f"search-*/{HISTORY}")
    before = read_json_lines(history)
    assert len(before) == num_readings
    resumed = own.finish(corrected)
    assert read_json_lines(history)[:num_readings] == before
    other = own.finish(replace(corrected, bin_=BinSettings(fraction=0.8))).finalists
    assert len(gathered) == 1
    assert other.gathering == resumed.finalists.gathering
    assert other.candidates != resumed.finalists.candidates
    assert resumed.history["flops"].sum() > whole.history["flops"].sum()
    spent = ["flops", "seconds"]
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns=spent), whole.history.drop(columns=spent), check_exact=True
    )
    assert resumed.finalists.candidates == whole.finalists.candidates
