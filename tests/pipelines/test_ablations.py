"""Ablations: all five pipelines by name on the tiny teacher."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from projects import copy_finished, kedro

from budwood.study.comparison import NAMES

CHANGES = """
grid: {half: [coarse_uniform], quarter: null}
bins: {half: {schedule: {warmup_steps: 2}, arms: {distilled: {micro_batch: 1}}}, most: {fraction: 0.75}}
ablations:
  tokens: 768
  students: {half: coarse_uniform, most: coarse_uniform}
  spaces: [coarse_uniform, fine_layerwise]
  metrics: [perplexity, importance, magnitude]
  metric_space: paper_coarse_uniform
  logits: {all: {loss: full}, top: {loss: topk_renorm, top_k: 16}}
  teachers:
    whole: {}
    part: {subnet: {bin: half, space: fine_layerwise}}
    other: {source: {random: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2}}}
  kd_grid: {alpha: [0.2, 0.0], temperature: [1.0], top_k: [16, null]}
"""
BINS = ("half", "most")


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the pages of all ablations are, after a run that took up what the smoke environment had found."""
    project = copy_finished(finished, tmp_path_factory.mktemp("compared") / "project", "02_intermediate")
    file = project / "conf/smoke/parameters.yml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(CHANGES)), file)
    done = kedro(project, "run", "--env=smoke", f"--pipelines={','.join(f'ablation_{name}' for name in NAMES)}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return project / "data/smoke/08_reporting/ablations"


@pytest.mark.slow
def test_every_ablation_ends_in_a_table_a_figure_and_a_page(compared):
    variants = {
        "spaces": ["coarse_uniform", "fine_layerwise"],
        "metric": ["perplexity", "importance", "magnitude"],
        "logits": ["all", "top"],
        "teacher": ["whole", "part", "other"],
    }
    for folder, name in product((compared / bin_name for bin_name in BINS), NAMES):
        table = pd.read_parquet(folder / f"{name}.parquet")
        assert table["loss"].notna().all(), name
        assert set(table["tokens"]) == {768}
        assert table["difference"].isna().sum() == 1
        assert table["variant"].tolist() == variants.get(name, table["variant"].tolist())
        assert "Lowest validation loss" in (folder / f"{name}.md").read_text()
        assert all((folder / f"{name}{end}.json").stat().st_size > 0 for end in ("", "_curves"))
        curves = pd.read_parquet(folder / f"{name}_curves.parquet")
        assert set(curves["variant"]) == set(table["variant"])
        assert curves.groupby("variant")["heldout_loss"].count().min() >= 2
    folder = compared / "half"
    teachers = pd.read_parquet(folder / "teacher.parquet").set_index("variant")["teacher_flops"]
    assert teachers["whole"] > teachers["part"] > teachers["other"] > 0
    # All variants of a distillation but the teacher's have one student.
    sizes = [set(pd.read_parquet(compared / bin_name / "logits.parquet")["num_parameters"]) for bin_name in BINS]
    assert [len(each) for each in sizes] == [1, 1]
    assert max(sizes[0]) < min(sizes[1])


@pytest.mark.slow
def test_the_grid_tells_how_much_each_setting_matters(compared):
    grid = pd.read_parquet(compared / "half/kd_grid.parquet")
    assert len(grid) == 4
    assert grid["top_k"].isna().sum() == 2
    importances = pd.read_parquet(compared / "half/kd_grid_importances.parquet").set_index("setting")
    assert importances["importance"].sum() == pytest.approx(1.0)
    assert importances.loc["temperature", "importance"] == 0
    assert "Importance of the settings" in (compared / "half/kd_grid.md").read_text()
