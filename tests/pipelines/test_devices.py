"""A launcher that cannot train is refused before the first node of a run that would use it, and of no other."""

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kedro.framework.project import pipelines

from budwood.models.device import choose_compute
from budwood.pipelines.devices import CHOOSING, TRAINING, DevicesHook
from budwood.records.names import ARMS
from budwood.study import devices
from budwood.training import trial
from budwood.training.launch import count_processes
from budwood.training.settings import ArmSettings, Engine, Schedule

pytestmark = pytest.mark.usefixtures("smoke_project")


SCHEDULE = Schedule(tokens=64, sequence_length=8, global_batch=4, micro_batch=2)


@pytest.fixture(autouse=True)
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_compute", lambda *_: choose_compute("cpu", "float32"))


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count two processes of every launcher that is tried."""
    found = []
    monkeypatch.setattr(devices, "count_processes", lambda launcher, *_: found.append(launcher) or 2)
    return found


def begin(
    name: str,
    *,
    tokens: int = 0,
    launcher: str | None = "torchrun",
    device: str = "auto",
    micro_batch: int = 2,
    **given: bool,
) -> None:
    """Begin a pipeline of a study whose finalists are trained on some tokens."""
    measurement = SimpleNamespace(device=device, hardware=(device, "float32"))
    search, engine = SimpleNamespace(finalist_tokens=tokens), Engine(launcher=launcher)
    arms = SimpleNamespace(**dict.fromkeys(ARMS, ArmSettings(micro_batch=micro_batch)))
    bins = {"half": SimpleNamespace(schedule=SCHEDULE, arms=arms)}
    study = SimpleNamespace(engine=engine, measurement=measurement, search=search, conditions_by_bin=bins)
    catalog = SimpleNamespace(load={"params:study": study, "workspace": Path()}.__getitem__)
    DevicesHook().before_pipeline_run(given, pipelines[name], catalog)


@pytest.mark.parametrize(
    ("name", "tokens"), [("__default__", 0), ("pretraining", 0), ("distillation", 0), ("evolution", 512)]
)
def test_what_trains_is_refused_before_it_begins(name, tokens):
    with pytest.raises(ValueError, match=r"engine.launcher starts .* this machine has no accelerator: name"):
        begin(name, tokens=tokens)
    begin(name, tokens=tokens, device="cpu")
    begin(name, tokens=tokens, launcher=None)
    begin(name, tokens=tokens, only_missing_outputs=True)


def test_processes_that_cannot_share_a_batch_are_refused_before_it_begins(tried):
    with pytest.raises(ValueError, match="global_batch=4 must be a multiple of micro_batch=4 times the 2 processes"):
        begin("__default__", device="cpu", micro_batch=4)
    begin("__default__", device="cpu")
    begin("__default__", device="cpu", launcher=None)
    assert tried == ["torchrun"] * 2


@pytest.mark.parametrize(("number", "status"), [("3", 0), ("3", 1), (None, 0)])
def test_a_launcher_is_tried(tmp_path, monkeypatch, number, status):
    """One process of three writes down how many there are."""
    launcher = tmp_path / "launcher.py"
    own = f"os.environ | {{'RANK': rank, 'WORLD_SIZE': '{number}'}}"
    start = f"[subprocess.run([sys.executable, *sys.argv[1:]], env={own}) for rank in '012']\n" if number else ""
    launcher.write_text(f"import os, subprocess, sys\n{start}sys.exit({status})\n")
    monkeypatch.setenv("LAUNCHER", str(launcher))
    command = f"{sys.executable} $LAUNCHER"
    if number and not status:
        assert count_processes(command, tmp_path, "cpu") == int(number)
    else:
        with pytest.raises(ValueError, match=rf"^engine.launcher: `.*` ended with status {status} when it was tried"):
            count_processes(command, tmp_path, "cpu")
    assert list(tmp_path.iterdir()) == [launcher]


def test_machines_with_too_few_devices_are_found_when_a_launcher_is_tried(tmp_path, monkeypatch):
    """Three machines with two processes each, of which the second has one device."""
    for rank in range(6):
        monkeypatch.setattr("torch.cuda.device_count", lambda rank=rank: 1 if rank // 2 == 1 else 2)
        for name, value in {"RANK": rank, "WORLD_SIZE": 6, "LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        trial.try_process(tmp_path, "cuda")
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(written) == {"processes.txt", "refused-2.txt"}
    assert written["processes.txt"] == "6"
    assert re.match(
        r"engine\.launcher: more processes \(2\) than devices \(1\) on \S+; start", written["refused-2.txt"]
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a device")
def test_a_launcher_with_too_few_devices_is_refused_when_it_is_tried(tmp_path):
    with pytest.raises(ValueError, match=r"^engine\.launcher: more processes \(1\) than devices \(0\) on \S+"):
        count_processes(sys.executable, tmp_path, "cuda")


@pytest.mark.parametrize("name", ["plan", "corpus", "teacher", "evolution", "export", "evaluation", "reporting"])
def test_what_does_not_train_begins(name):
    begin(name)


def test_all_nodes_that_train_are_known():
    modules = (import_module(f"budwood.pipelines.{name}.nodes") for name in ("ablations", "evolution", "training"))
    functions = {name: each for module in modules for name, each in inspect.getmembers(module, inspect.isfunction)}
    sources = {name: inspect.getsource(each) for name, each in functions.items()}
    training = {name for name, source in sources.items() if "TrainArm.of(" in source or "BriefTraining.of(" in source}
    assert training == TRAINING | {CHOOSING}
