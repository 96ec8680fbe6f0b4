"""A teacher that is asked once: what its node hands on, and a whole run with it."""

import numpy as np
import pandas as pd
import pytest
from corpora import tokenize_and_pack
from omegaconf import OmegaConf
from projects import copy_finished, kedro

from budwood.datasets.teacher_cache import TeacherCacheDataset
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.pipelines.training.nodes import cache_teacher
from budwood.records.form import read_records
from budwood.study import training
from budwood.study.settings import Conditions, MeasurementSettings, ProtocolSettings
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule

CHANGES = """
arms: {distilled: {distillation: {loss: sampled, num_samples: 16, teacher: cached}}}
grid: {half: null, quarter: [coarse_uniform]}
"""
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DISTILLATION = DistillationSettings(loss="sampled", num_samples=8, teacher="cached")
SCHEDULE = Schedule(tokens=300, sequence_length=10, global_batch=4, micro_batch=2)
MEASUREMENT = MeasurementSettings(
    length=10, calibration=1, selection=2, choice=1, validation=1, heldout=1, device="cpu", precision="float32"
)


def conditions(**changes: object) -> Conditions:
    """Return how arms are trained, with changed settings of distillation."""
    arm = ArmSettings(learning_rate=0.01)
    taught = ArmSettings(learning_rate=0.01, distillation=DISTILLATION.model_copy(update=changes))
    arms = Arms(random_init=arm, subnet_init=arm, reference_init=arm, distilled=taught)
    return Conditions(
        measurement=MEASUREMENT, protocol=ProtocolSettings(), schedule=SCHEDULE, arms=arms, engine=Engine()
    )


@pytest.fixture
def ask(tmp_path):
    """Return a call of the node on a tiny teacher and text, with changed settings of distillation."""
    teacher = fetch_teacher(TeacherSettings(random=SIZES, seed=1), tmp_path / "teacher").checkpoint
    text = "".join(np.random.default_rng(0).choice(list("abcde "), 500))
    documents = pd.DataFrame({"split": ["train"], "source": ["one"], "text": [text]})
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=tmp_path / "tokens", progress=False)
    return lambda **changes: cache_teacher(
        teacher, tokens, conditions(**changes), tmp_path / "work", num_tokens=SCHEDULE.tokens
    )


def test_the_node_reports_what_it_cost_and_asks_once(ask, monkeypatch):
    said, costs = ask()
    (cost,) = costs
    assert (cost.stage, cost.arm, cost.tokens) == ("teacher_cache", "distilled", said.record.tokens)
    assert said.record.tokens == 10 * len(said.starts) == 10 * 32
    # Two multiplications and additions for every matrix entry, and what attention needs on top.
    assert cost.flops > 2 * cost.tokens * (257 * 16 + 4 * 16 * 16 + 3 * 16 * 16)
    assert 2 < said.record.bytes_per_token < 2 + 8 * 3 + 1 + 4 + 1
    monkeypatch.setattr(training, "open_live_teacher", lambda *_: pytest.fail("the teacher was loaded again"))
    again, same = ask()
    assert (again.fingerprint, same) == (said.fingerprint, costs)


def test_other_settings_have_a_cache_of_their_own(ask):
    said, _ = ask()
    other, _ = ask(temperature=2.0)
    assert other.folder != said.folder
    same, _ = ask(beta=0.1)
    assert same.folder == said.folder


def test_the_catalog_keeps_it(ask, tmp_path):
    said, _ = ask()
    dataset = TeacherCacheDataset(filepath=tmp_path / "data/cache")
    assert not dataset.exists()
    dataset.save(said)
    loaded = dataset.load()
    assert dataset.exists()
    assert (loaded.fingerprint, loaded.folder) == (said.fingerprint, tmp_path / "data/cache")
    assert '"bytes_per_token"' in str(dataset.preview())


@pytest.mark.slow
def test_a_run_with_a_cached_teacher(finished, tmp_path):
    """Only the arm under the teacher is trained; its teacher's cost moves to an entry of its own in the ledger."""
    project = copy_finished(finished, tmp_path / "project")
    file = project / "conf/smoke/parameters.yml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(CHANGES)), file)
    done = kedro(project, "run", "--env=smoke", "--pipelines=plan,distillation,evaluation,reporting")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    data = project / "data/smoke"
    ledger = pd.DataFrame([cost.model_dump() for cost in read_records(data / "07_model_output/ledger.json")])
    (cost,) = ledger[ledger["stage"] == "teacher_cache"].to_dict("records")
    assert (cost["bin"], cost["space"], cost["arm"]) == ("", "", "distilled")
    assert cost["flops"] > 0
    assert "teacher" not in set(ledger["stage"])
    record = TeacherCacheDataset(filepath=data / "04_feature/teacher_cache").load().record
    assert record.bytes_per_token < 70
    planned = pd.read_parquet(data / "08_reporting/plan.parquet").set_index("stage")
    assert planned.loc["teacher_cache", "tokens"] == cost["tokens"]
    assert planned.loc["teacher_cache", "disk_bytes"] >= record.bytes_per_token * cost["tokens"]
    assert "teacher" not in planned.index
    # Of all trainings only those under the teacher are made again.
    for reused in ("random_init", "subnet_init"):
        assert not [line for line in output.splitlines() if f"{reused}:" in line and "step" in line]
