"""The paper's protocol end to end: probe every space, go on with the best of each bin, beside the bin's reference."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from projects import copy_finished, kedro

from budwood.records.form import read_records
from budwood.study.settings import ProtocolSettings
from budwood.training.settings import Schedule

CHANGES = """
grid: {half: [coarse_uniform, coarse_layerwise], quarter: null}
bins:
  half:
    reference:
      {model_type: llama, vocab_size: 257, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4,
       num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, tie_word_embeddings: true}
protocol: {probe_tokens: 1024}
schedule: {shape: warmup_stable_decay}
"""


def test_a_probe_is_the_study_in_short() -> None:
    schedule = Schedule(preset="where_to_begin_1b", micro_batch=6)
    probe = ProtocolSettings(probe_tokens=2_000_000_000).probe_schedule(schedule)
    assert (probe.num_steps, probe.micro_batch, probe.peak_learning_rate) == (925, 6, 3e-4)
    assert ProtocolSettings().probe_schedule(schedule) is None
    with pytest.raises(ValueError, match="warmup_steps=238 must be fewer than the run's 47"):
        ProtocolSettings(probe_tokens=10**8).probe_schedule(Schedule(preset="where_to_begin_2.8b"))


@pytest.fixture(scope="module")
def probed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data of a run with probes, which took up what the smoke environment had found."""
    project = copy_finished(finished, tmp_path_factory.mktemp("probed") / "project", "02_intermediate")
    file = project / "conf/smoke/parameters.yml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(CHANGES)), file)
    done = kedro(project, "run", "--env=smoke")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return project / "data/smoke"


@pytest.mark.slow
def test_the_best_space_goes_on_and_repeats_no_step(probed):
    selections = pd.read_parquet(probed / "07_model_output/selections.parquet")
    assert set(selections["space"]) == {"coarse_uniform", "coarse_layerwise"}
    best, other = selections.to_dict("records")
    assert (best["chosen"], other["chosen"]) == (True, False)
    assert other["difference"] == pytest.approx(other["loss"] - best["loss"])
    results = pd.read_parquet(probed / "08_reporting/results.parquet")
    trained = results[results["bin"] != ""]
    assert set(trained["space"]) == {best["space"]}
    assert set(trained["model"]) == {"random_init", "subnet_init", "distilled", "reference_init"}
    curves = pd.read_parquet(probed / "07_model_output/curves.parquet").set_index(["arm", "step"])["train_loss"]
    probe = pd.read_parquet(probed / f"06_models/half/{best['space']}/probe_curve.parquet").set_index("step")
    # The first three of four steps of 256 tokens; the fourth decays.
    assert curves["subnet_init"].dropna().loc[:3].tolist() == probe["train_loss"].dropna().loc[:3].tolist()


@pytest.mark.slow
def test_the_plan_foretold_the_tokens_of_every_stage(probed):
    planned = pd.read_parquet(probed / "08_reporting/plan.parquet").groupby("stage")["tokens"].sum()
    spent = pd.DataFrame([cost.model_dump() for cost in read_records(probed / "07_model_output/ledger.json")])
    tokens = spent.groupby("stage")["tokens"].sum()
    for stage in ("probe", "training", "teacher", "heldout", "compensation", "calibration"):
        assert tokens[stage] == planned[stage], stage
    # 2,048 tokens for each arm and the reference, of which one has 768 from its probe.
    assert tokens["training"] == 4 * 2048 - 768
    reference = spent[(spent["arm"] == "reference_init") & (spent["stage"] == "training")]
    assert reference["space"].tolist() == [""]


@pytest.mark.slow
def test_the_report_tells_the_choice_and_both_baselines(probed):
    report = (probed / "08_reporting/report.md").read_text()
    assert "## Selection" in report
    assert "final loss of reference_init" in report
    assert "| reference_init " in report
    savings = pd.read_parquet(probed / "08_reporting/savings.parquet")
    pairs = set(zip(savings["baseline"], savings["arm"], strict=True))
    assert {("random_init", "reference_init"), ("reference_init", "distilled")} <= pairs
    speeds = pd.read_parquet(probed / "08_reporting/speeds.parquet")
    assert speeds["model"].tolist() == ["teacher", "subnet", "reference_init"]
    assert len(read_records(probed / "07_model_output/winners.json")) == 2
