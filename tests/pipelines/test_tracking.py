"""What a run leaves in MLflow: one run per study, variant and training, closed however the process ends."""

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.framework.project import configure_project, settings
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro_datasets.json import JSONDataset
from mlflow.entities import Run
from processes import run_python
from projects import ROOT, kedro

from budwood.hooks import CredentialsHook, TrackingHook, _close_dead_runs
from budwood.pipelines.tracking import finish_in, open_workspace, run_of, track
from budwood.study.stage import Workspace
from budwood.training.run import TrainingStoppedError

VARIANT = "subnets.half.coarse"
SYSTEM = ("system/training.seconds", "system/training.peak_rss_mib")


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_store")]


@pytest.fixture
def _store(new_store: Callable[[Path], str], tmp_path: Path) -> None:
    new_store(tmp_path)


def losses(*values: float) -> Callable[[dict], list[float]]:
    """Return a node's function that tracks losses and the environment of other processes."""

    def node(_: dict) -> list[float]:
        for step, value in enumerate(values):
            track({"train_loss": value}, step)
        assert open_workspace(Path()).environment["MLFLOW_RUN_ID"] == mlflow.active_run().info.run_id
        return list(values)

    return node


def node(name: str, function: Callable[..., object], inputs: object, namespace: str | None = VARIANT) -> Node:
    output = f"{namespace}.{name}_done" if namespace else f"{name}_done"
    return Node(function, inputs, output, name=name, namespace=namespace)


PARAMETERS = {"arms": {"distilled": {"rate": 1.0}, "random_init": {"rate": 3.0}}, "schedule": {"seed": 42}}


@pytest.fixture
def hook() -> Iterator[TrackingHook]:
    """Yield the hook of a process, whose sessions share it."""
    hook = TrackingHook()
    yield hook
    hook._close("FINISHED")


def run(
    folder: Path, *nodes: Node, hook: TrackingHook | None = None, settings: dict | None = None, **run_params: object
) -> None:
    """Run nodes as a session does."""
    hook, manager = hook or TrackingHook(), _create_hook_manager()
    manager.register(hook)
    store = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "experiment": "study"} | (settings or {})
    loader = {"mlflow": store, "parameters": PARAMETERS | {"hub": {"token": "hf_x"}}}
    hook.after_context_created(SimpleNamespace(config_loader=loader, env=None))
    pipeline = Pipeline(list(nodes))
    datasets = {
        name: JSONDataset(filepath=str(folder / f"{name}.json"), metadata={"mlflow": "artifact"})
        for name in pipeline.all_outputs()
    }
    catalog = DataCatalog(datasets)
    catalog["params:schedule"], catalog["params:conditions"] = PARAMETERS["schedule"], PARAMETERS
    hook.after_catalog_created(catalog)
    hook.before_pipeline_run(run_params)
    try:
        written = SequentialRunner().run(pipeline, catalog, manager)
    except Exception as error:
        hook.on_pipeline_error(error)
        raise
    hook.after_pipeline_run(written)


def runs(folder: Path) -> dict[str, Run]:
    """Return all runs by their names, joined to those around them."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = {r.info.run_id: r for r in client.search_runs([client.get_experiment_by_name("study").experiment_id])}

    def path(of: Run) -> str:
        around = of.data.tags.get("mlflow.parentRunId")
        return of.info.run_name if around is None else f"{path(found[around])}/{of.info.run_name}"

    return {path(of): of for of in found.values()}


TRAININGS = {
    "train_distilled": (3.0, 2.0),
    "train_distilled_seed_43": (3.0, 2.5),
    "train_random_init": (9.0, 8.0),
}


def trainings() -> list[Node]:
    return [node(name, losses(*values), "params:conditions") for name, values in TRAININGS.items()]


def test_every_training_has_a_run_with_metrics_and_parameters_of_equal_names(tmp_path):
    searching = node("evolve", losses(1.0), "params:schedule")
    run(tmp_path, searching, *trainings())
    found = runs(tmp_path)
    arms = {
        name: f"whole study/half.coarse/half.coarse.{name}"
        for name in ("distilled", "distilled_seed_43", "random_init")
    }
    assert set(found) == {"whole study", "whole study/half.coarse", *arms.values()}
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    assert {name: found[arm].data.metrics["train_loss"] for name, arm in arms.items()} == {
        "distilled": 2.0,
        "distilled_seed_43": 2.5,
        "random_init": 8.0,
    }
    assert {name: found[arm].data.params for name, arm in arms.items()} == {
        "distilled": {"arm.rate": "1.0", "schedule.seed": "42"},
        "distilled_seed_43": {"arm.rate": "1.0", "schedule.seed": "43"},
        "random_init": {"arm.rate": "3.0", "schedule.seed": "42"},
    }
    assert {"system/training.seconds", "train_loss"} <= set(found[arms["distilled"]].data.metrics)
    assert found["whole study/half.coarse"].data.metrics.keys() >= {"train_loss", "system/evolve.seconds"}
    tags = found[arms["distilled_seed_43"]].data.tags
    assert (tags["arm"], tags["variant"], tags["environment"]) == ("distilled", "half.coarse", "base")
    assert tags["budwood.pid"]


def test_outputs_are_artifacts_of_the_run_that_made_them(tmp_path):
    run(tmp_path, node("plan", losses(), "params:schedule", None), node("evolve", losses(1.0), "params:schedule"))
    run(tmp_path, *trainings(), pipeline_names=["again"])
    kept = {
        name: {file.name for file in Path(r.info.artifact_uri.removeprefix("file://")).rglob("*.json")}
        for name, r in runs(tmp_path).items()
    }
    assert kept["whole study"] == {"plan_done.json"}
    assert kept["whole study/half.coarse"] == {f"{VARIANT}.evolve_done.json"}
    assert kept["again/half.coarse"] == set()
    assert kept["again/half.coarse/half.coarse.distilled"] == {f"{VARIANT}.train_distilled_done.json"}


def test_what_is_measured_later_goes_to_the_run_of_the_training_and_leaves_its_times(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "finish", lambda own, loss: own.track({"validation_loss": loss}, 2))

    def measure(_: dict) -> float:
        for name, loss in (("distilled", 1.5), ("random_init", 7.5)):
            finish_in(name, loss, tmp_path)
        return 0.0

    evaluate = node("evaluate_arms", measure, "params:schedule")
    evaluate_again = node("zz_evaluate_arms", measure, "params:conditions")
    run(tmp_path, evaluate, evaluate_again, pipeline_names=["evaluation"])
    found = runs(tmp_path)
    assert found["evaluation/half.coarse/half.coarse.distilled"].data.metrics == {"validation_loss": 1.5}
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    assert len(found) == 4
    # Beside the training, as in a run of all pipelines.
    trained = []

    def look(_: dict) -> float:
        trained.append(runs(tmp_path)[arm].info)
        return measure({})

    arm = "whole study/half.coarse/half.coarse.distilled"
    run(tmp_path, *trainings(), node("zz_evaluate_arms", look, "params:schedule"))
    after = runs(tmp_path)[arm]
    assert after.data.metrics.keys() == {"train_loss", "validation_loss", *SYSTEM}
    assert (after.info.status, after.info.end_time) == ("FINISHED", trained[0].end_time)


def test_nodes_log_a_parameter_that_they_share_once(tmp_path, monkeypatch):
    logged, log_params = [], mlflow.log_params
    monkeypatch.setattr(mlflow, "log_params", lambda params: (logged.append(params), log_params(params)))
    nodes = [node(name, losses(1.0), "params:schedule") for name in ("choose", "evolve", "export")]
    run(tmp_path, *nodes)
    assert [params for params in logged if "schedule.seed" in params and "hub.token" not in params] == [
        {"schedule.seed": 42}
    ]


def test_without_a_run_nothing_is_tracked():
    with run_of("distilled"):
        track({"train_loss": 1.0}, 0)
    assert open_workspace(Path()).environment == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad"), "FAILED"), (TrainingStoppedError("stopped"), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_an_error_closes_all_runs(tmp_path, hook, error, status):
    def fail(_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        run(tmp_path, node("train_distilled", fail, "params:schedule"), hook=hook)
    if isinstance(error, KeyboardInterrupt):  # of a notebook: the process lives on, and runs again
        run(tmp_path, node("evolve", losses(1.0), "params:schedule"), hook=hook, pipeline_names=["again"])
    ended = {name: r.info.status for name, r in runs(tmp_path).items() if not name.startswith("again")}
    assert ended == dict.fromkeys(
        ("whole study", "whole study/half.coarse", "whole study/half.coarse/half.coarse.distilled"), status
    )
    assert mlflow.active_run() is None


def test_a_variant_of_an_ablation_that_diverges_has_failed_and_the_others_go_on(tmp_path):
    def ablate(_: object) -> float:
        for name, loss in (("diverges", math.nan), ("learns", 1.0)):
            with suppress(FloatingPointError), run_of(name):
                require_finite(loss)
        return 0.0

    def require_finite(loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError

    run(tmp_path, node("ablate_logits", ablate, "params:schedule"))
    ended = {name.rpartition("/")[2]: r.info.status for name, r in runs(tmp_path).items()}
    assert ended == {"whole study": "FINISHED", "half.coarse": "FINISHED"} | {
        "half.coarse.diverges": "FAILED",
        "half.coarse.learns": "FINISHED",
    }


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", 143),
        ("os.kill(os.getpid(), signal.SIGINT)", 1),
        ("raise TrainingStoppedError('arm distilled: stopped by SIGTERM or Ctrl-C')", 143),
    ],
    ids=["SIGTERM", "Ctrl-C", "training"],
)
def test_a_process_that_is_stopped_closes_its_runs_and_says_how_to_go_on(tmp_path, how, code):
    """As Kedro's command line does: Ctrl-C becomes exit status 1. A training takes the signal itself."""
    script = f"""
        import os, signal, sys, logging, click, test_tracking
        from pathlib import Path
        from budwood.pipelines.tracking import track
        from budwood.pipelines.wiring import Deferred
        from budwood.training.run import TrainingStoppedError

        def stop(_):
            track({{"train_loss": 1.0}}, 0)
            {how}

        @click.command()
        def main():
            node = test_tracking.node("train_distilled", Deferred("__main__", "stop"), "params:schedule")
            test_tracking.run(Path({str(tmp_path)!r}), node)

        logging.basicConfig()
        sys.argv = ["/somewhere/kedro", "run", "--params=a.token=hf_x"]
        main([])
    """
    path = {
        "PYTHONPATH": ":".join([*sys.path, str(Path(__file__).parent)]),
        "KEDRO_LOGGING_CONFIG": str(ROOT / "conf/logging.yml"),
    }
    done = run_python(["-c", textwrap.dedent(script)], ROOT, os.environ | path)
    assert done.returncode == code, done.stderr
    assert {r.info.status for r in runs(tmp_path).values()} == {"KILLED"}
    assert len(runs(tmp_path)) == 3
    said = " ".join((done.stdout + done.stderr).split())
    assert said.endswith("Go on with the same command: kedro run --params=a.token=***" + " Aborted!" * (code == 1))
    assert "Traceback" not in said


def test_signals_are_heard_as_before_when_a_run_has_ended(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, node("evolve", losses(1.0), "params:schedule"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_runs_of_a_process_that_is_gone_are_closed(tmp_path):
    run(tmp_path, node("evolve", losses(1.0), "params:schedule"))
    client = mlflow.MlflowClient()
    gone = runs(tmp_path)["whole study/half.coarse"]
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    client.set_tag(gone.info.run_id, "budwood.pid", str(child.pid))
    client.set_terminated(gone.info.run_id, "RUNNING")
    _close_dead_runs(gone)
    assert client.get_run(gone.info.run_id).info.status == "KILLED"


@pytest.mark.parametrize(
    ("run_params", "name"),
    [
        ({}, "whole study"),
        ({"pipeline_names": ["__default__"], "tags": []}, "whole study"),
        ({"tags": ["half"]}, "tags=half"),
        ({"pipeline_names": ["reporting", "evaluation"]}, "evaluation+reporting"),
        ({"namespaces": ["subnets.half.a"], "pipeline_names": ["export"]}, "export namespaces=subnets.half.a"),
        ({"from_nodes": ["b", "a"], "to_outputs": ["c"]}, "from_nodes=a,b to_outputs=c"),
        ({"only_missing_outputs": True}, "missing outputs"),
    ],
)
def test_a_run_is_named_by_what_it_runs(tmp_path, run_params, name):
    run(tmp_path, **run_params)
    assert list(runs(tmp_path)) == [name]


@pytest.mark.parametrize("runner", ["ThreadRunner", "<kedro.runner.parallel_runner.ParallelRunner object at 0x7f>"])
def test_runners_of_several_nodes_at_once_are_refused(tmp_path, runner):
    with pytest.raises(ValueError, match=r"runner (ThreadRunner|ParallelRunner): .* use SequentialRunner"):
        run(tmp_path, runner=runner)
    assert not mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_experiment_by_name("study")


def test_secrets_are_not_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kedro", "run", "--params=hub.token=hf_x"])
    run(tmp_path)
    study = runs(tmp_path)["whole study"]
    assert study.data.params["hub.token"] == "***"
    assert study.data.tags["command"] == "kedro run --params=hub.token=***"
    assert "hf_x" not in (tmp_path / "mlflow.db").read_bytes().decode("latin-1")


def test_trained_checkpoints_are_registered_where_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        TrackingHook, "_identity", lambda _, name, data: {f"{name.rpartition('.')[2]}.fingerprint": str(data)}
    )
    monkeypatch.setattr(JSONDataset, "metadata", property(lambda _: {"mlflow": "fingerprint"}, lambda *_: None), False)
    run(tmp_path, *trainings(), settings={"register": True})
    models = mlflow.MlflowClient().search_registered_models()
    assert {model.name for model in models} == {f"half.coarse.{name}_done" for name in TRAININGS}


@pytest.mark.parametrize("local", [True, False])
def test_local_credentials_are_read_in_every_environment(tmp_path, monkeypatch, local):
    """Those of the environment are kept, and so are its globals."""
    monkeypatch.setenv("HF_TOKEN", "")
    configure_project("budwood")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    if local:
        (tmp_path / "conf/local").mkdir(exist_ok=True)
        (tmp_path / "conf/local/credentials.yml").write_text("hugging_face: {token: hf_local}")
    (tmp_path / "conf/smoke/credentials.yml").write_text("hugging_face: {token: hf_smoke}\nother: {key: 1}")
    loader = OmegaConfigLoader(str(tmp_path / "conf"), env="smoke", **settings.CONFIG_LOADER_ARGS)
    CredentialsHook().after_context_created(SimpleNamespace(config_loader=loader))
    token = "hf_local" if local else "hf_smoke"
    assert loader["credentials"] == {"hugging_face": {"token": token}, "other": {"key": 1}}
    assert os.environ["HF_TOKEN"] == token
    assert loader["catalog"]["report"]["filepath"].startswith("data/smoke/")


def test_the_command_line_refuses_runners_and_reads_local_credentials_in_every_environment(project):
    """The token of conf/local gets to the hub's library, under an environment of another name."""
    (project / "conf/local").mkdir(exist_ok=True)
    (project / "conf/local/credentials.yml").write_text("hugging_face: {token: hf_local}\n")
    (project / "conf/smoke/credentials.yml").write_text("hugging_face: {token: hf_smoke}\nother: {key: 1}\n")
    hooks = project / "src/budwood/settings.py"
    hooks.write_text(
        hooks.read_text()
        + "\nfrom kedro.framework.hooks import hook_impl\n\n\nclass Say:\n    @hook_impl\n"
        + "    def after_catalog_created(self, conf_creds):\n"
        + "        print('SEEN', os.environ['HF_TOKEN'], conf_creds)\n\n\nHOOKS = (*HOOKS, Say())\n"
    )
    store = project / "data/09_tracking/mlflow.db"
    store.unlink()
    done = kedro(project, "run", "--env=smoke", "--runner=ThreadRunner", "--pipelines=plan")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "runner ThreadRunner: nodes share one machine and run one by one; use SequentialRunner" in output
    assert "SEEN hf_local {'hugging_face': {'token': 'hf_local'}, 'other': {'key': 1}}" in output
    assert not store.exists()
