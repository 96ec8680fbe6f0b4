"""A teacher that is asked once: what its node hands on, and a whole run with it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from projects import copy_project, kedro

from budwood.corpus.packing import tokenize_and_pack
from budwood.datasets.teacher_cache import TeacherCacheDataset
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.distillation import nodes
from budwood.pipelines.distillation.nodes import cache_teacher
from budwood.training.settings import DistillationSettings, Schedule

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ARM = ArmParameters(
    learning_rate=0.01,
    distillation=DistillationSettings(loss="sampled", num_samples=8, teacher="cached"),
)
SCHEDULE = Schedule(tokens=300, sequence_length=10, global_batch=4, micro_batch=2)
MEASUREMENT = MeasurementParameters(
    length=10, calibration=1, selection=2, choice=1, validation=1, heldout=1, device="cpu", precision="float32"
)


@pytest.fixture
def ask(tmp_path):
    """Return a call of the node on a tiny teacher and text."""
    teacher = fetch_teacher(TeacherSettings(random=SIZES, seed=1), tmp_path / "teacher").folder
    text = "".join(np.random.default_rng(0).choice(list("abcde "), 500))
    documents = pd.DataFrame({"split": ["train"], "source": ["one"], "text": [text]})
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, directory=tmp_path / "tokens", progress=False)
    return lambda arm=ARM: cache_teacher(teacher, tokens, arm, SCHEDULE, MEASUREMENT, tmp_path / "work")


def test_the_node_tells_what_it_cost_and_asks_once(ask, monkeypatch):
    said, record = ask()
    (cost,) = record["costs"]
    assert (cost["stage"], cost["arm"], cost["tokens"]) == ("teacher_cache", "distilled", record["tokens"])
    assert record["tokens"] == 10 * len(said.starts) == 10 * 32
    # Two multiplications and additions for every matrix entry, and what attention needs on top.
    assert cost["flops"] > 2 * record["tokens"] * (257 * 16 + 4 * 16 * 16 + 3 * 16 * 16)
    assert 2 < record["bytes_per_token"] < 2 + 8 * 3 + 1 + 4 + 1
    monkeypatch.setattr(nodes, "open_live_teacher", lambda *_: pytest.fail("the teacher was loaded again"))
    again, same = ask()
    assert (again.fingerprint, same) == (said.fingerprint, record)


def test_other_settings_have_a_cache_of_their_own(ask):
    said, _ = ask()
    warmer = ARM.distillation.model_copy(update={"temperature": 2.0})
    other, _ = ask(ARM.model_copy(update={"distillation": warmer}))
    assert other.folder != said.folder
    heavier = ARM.distillation.model_copy(update={"beta": 0.1})
    same, _ = ask(ARM.model_copy(update={"distillation": heavier}))
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
    """Only the arm under the teacher is trained anew; its teacher's cost moves to an entry of its own in the ledger."""
    project = copy_project(tmp_path / "project")
    shutil.copytree(finished / "data/smoke", project / "data/smoke")
    (project / "conf/smoke/parameters_changed.yml").write_text(
        "arms: {distilled: {distillation: {loss: sampled, num_samples: 16, teacher: cached}}}"
    )
    done = kedro(project, "run", "--env=smoke", "--pipelines=plan,distillation,evaluation,reporting")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    ledger = pd.DataFrame(json.loads((project / "data/smoke/07_model_output/ledger.json").read_text()))
    (cost,) = ledger[ledger["stage"] == "teacher_cache"].to_dict("records")
    assert (cost["bin"], cost["space"], cost["arm"]) == ("", "", "distilled")
    assert cost["flops"] > 0
    assert "teacher" not in set(ledger["stage"])
    record = json.loads((project / "data/smoke/04_feature/teacher_cache_record.json").read_text())
    assert record["bytes_per_token"] < 70
    planned = pd.read_parquet(project / "data/smoke/08_reporting/plan.parquet").set_index("stage")
    assert planned.loc["teacher_cache", "tokens"] == cost["tokens"]
    assert planned.loc["teacher_cache", "disk_bytes"] >= record["bytes_per_token"] * cost["tokens"]
    assert "teacher" not in planned.index
    assert output.count("Cache the teacher") > 0
