"""Searches of every kind through Kedro: what they leave behind, and that workers change nothing."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from projects import copy_finished, kedro
from safetensors.torch import load_file

from budwood.records.form import read_records
from budwood.records.search import Winner
from budwood.search.genes import Genes
from budwood.study.teacher import importance_of
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.extract import resolve
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Compensation, SpaceSettings

pytestmark = pytest.mark.slow

SEARCH = {"population": 6, "epochs": 1, "num_elites": 3, "num_mutants": 4, "num_crossovers": 1, "num_randoms": 1}
OUTPUTS = "--to-outputs=subnets.half.coarse_layerwise.winner"


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """Return a project whose teacher is measured and whose text is packed."""
    project = copy_finished(finished, tmp_path / "project", "02_intermediate")
    for folder in (project / "data/smoke").rglob("search-*"):
        shutil.rmtree(folder)
    return project


def search(project: Path, **changes: object) -> tuple[pd.DataFrame, Winner]:
    """Search one variant of the smoke environment with other settings; return its history and its winner."""
    file = project / "conf/smoke/parameters.yml"
    raw = yaml.safe_load(file.read_text())
    # Both would change all layers of a neighbour, so that it shares nothing.
    raw["bins"]["half"].pop("limits", None)
    raw["spaces"]["coarse_layerwise"]["compensation"] = {"pairs": False}
    raw |= {"grid": {"half": ["coarse_layerwise"]}, "search": SEARCH | {"stages": []} | changes}
    file.write_text(yaml.safe_dump(raw))
    done = kedro(project, "run", "--env=smoke", OUTPUTS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    folder = project / "data/smoke/05_model_input/half/coarse_layerwise"
    return pd.read_parquet(folder / "history.parquet"), read_records(folder / "winner.json")


def test_two_workers_write_the_same_history_as_one(project):
    """Of corrected candidates, to the last bit."""
    kept = ["evaluation", "key", "loss", "flops", "tokens", "origin", "finished"]
    compared = {"stages": [2], "strategy": "local", "compare": "corrected"}
    alone, winner = search(project, **compared)
    for folder in (project / "data/smoke").rglob("search-*"):
        shutil.rmtree(folder)
    together, other = search(project, **compared, workers=2)
    pd.testing.assert_frame_equal(alone[kept], together[kept], check_exact=True)
    times = {name: getattr(winner, name) for name in ("costs", "search_flops")}
    assert winner == other.model_copy(update=times)
    assert [cost.flops for cost in winner.costs] == [cost.flops for cost in other.costs]
    # Which candidates begin with the same layers is up to the losses, which differ in the last digits between machines.
    assert alone["flops"].sum() <= flops_without_sharing(project, alone) * (1 + 1e-12)


def flops_without_sharing(project: Path, history: pd.DataFrame) -> float:
    """Return what the candidates of a history would take if none began with layers that another has run."""
    data, space = project / "data/smoke", SpaceSettings(layerwise=True, compensation=Compensation(pairs=False))
    importance = importance_of(load_file(data / "04_feature/importance.safetensors"))
    ordered = open_ordered(data / "03_primary/teacher", space, importance)
    genes = Genes.open(data / "05_model_input/half/coarse_layerwise/genes")
    correcting = SubnetEvaluator(teacher=ordered, windows=torch.empty(0), compensation=space.compensation)._correcting
    solved = [correcting(resolve(ordered, genes.read(number))) for number in history["evaluation"]]
    num_stages = 1 + (history["num_sequences"] > 2)
    return float((history["flops_per_token"] * history["tokens"] + num_stages * solved).sum())


def test_a_front_of_divergence_and_latency_with_trained_finalists(project):
    settings = {"strategy": "pareto", "objectives": ["flops", "latency"], "fitness": "kl", "level_switch": 0.5}
    history, best = search(project, **settings, finalist_tokens=512, num_finalists=2)
    assert (history[["flops_per_token", "latency_seconds"]] > 0).all(axis=None)
    assert len(history) == 12
    front = pd.DataFrame([point.objectives for point in best.front])
    assert {"loss", "flops", "latency"} <= set(front)
    assert all(point.description and point.selection.layers for point in best.front)
    assert front["loss"].is_monotonic_increasing
    assert front["loss"].min() == history["loss"].min()
    assert best.finalist_tokens == 512
    low, high = best.choice_interval
    assert low < best.choice_loss < high
    assert len(best.finalists) == 2


def test_a_search_by_importance_reads_no_text(project):
    history, best = search(project, fitness="importance", normalisation="rank", num_finalists=1)
    assert history["tokens"].sum() == 0
    assert best.selection_loss == history["loss"].min() < 0
    assert best.lead is None
