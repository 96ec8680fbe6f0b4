"""A launcher without accelerators is refused before the first node of a run that would use it, and of no other."""

import inspect
from importlib import import_module
from types import SimpleNamespace

import pytest
from kedro.framework.project import pipelines

from budwood.models.device import choose_compute
from budwood.pipelines.devices import CHOOSING, TRAINING, DevicesHook
from budwood.study import devices
from budwood.training.settings import Engine

pytestmark = pytest.mark.usefixtures("smoke_project")


@pytest.fixture(autouse=True)
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_compute", lambda *_: choose_compute("cpu", "float32"))


def begin(
    name: str, *, tokens: int = 0, launcher: str | None = "torchrun", device: str = "auto", **given: bool
) -> None:
    """Begin a pipeline of a study whose finalists are trained on some tokens."""
    measurement = SimpleNamespace(device=device, hardware=(device, "float32"))
    search, engine = SimpleNamespace(finalist_tokens=tokens), Engine(launcher=launcher)
    study = SimpleNamespace(engine=engine, measurement=measurement, search=search)
    catalog = SimpleNamespace(load={"params:study": study}.__getitem__)
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


@pytest.mark.parametrize("name", ["plan", "corpus", "teacher", "evolution", "export", "evaluation", "reporting"])
def test_what_does_not_train_begins(name):
    begin(name)


def test_all_nodes_that_train_are_known():
    modules = (import_module(f"budwood.pipelines.{name}.nodes") for name in ("ablations", "evolution", "training"))
    functions = {name: each for module in modules for name, each in inspect.getmembers(module, inspect.isfunction)}
    sources = {name: inspect.getsource(each) for name, each in functions.items()}
    training = {name for name, source in sources.items() if "TrainArm.of(" in source or "BriefTraining.of(" in source}
    assert training == TRAINING | {CHOOSING}
