"""The smoke environment from end to end, as a user runs it."""

import json
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines, settings
from kedro.io import DataCatalog
from mlflow.entities import Run
from projects import copy_finished, kedro

from budwood.models.fingerprint import fingerprint
from budwood.parameters import read_parameters
from budwood.pipelines.parameters import ParametersHook
from budwood.records.form import read_records

pytestmark = pytest.mark.slow

VARIANTS = {
    "half.coarse_uniform",
    "half.fine_layerwise",
    "quarter.coarse_uniform",
    "quarter.coarse_layerwise",
    "quarter.paper_fine_uniform",
}


TRAININGS = {f"{variant}.{arm}" for variant in VARIANTS for arm in ("random_init", "subnet_init", "distilled")}


def tracked(project) -> tuple[Run, dict[str, Run]]:
    """Return the run of the study, and those inside it by variant and training."""
    client = mlflow.MlflowClient(f"sqlite:///{project}/data/09_tracking/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    around = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    children = {run.info.run_name: run for run in runs if around[run.info.run_id] == parent.info.run_id}
    inside = {
        run.info.run_name: run
        for name, child in children.items()
        for run in runs
        if around[run.info.run_id] == child.info.run_id and run.info.run_name.startswith(f"{name}.")
    }
    assert len(runs) == 1 + len(children) + len(inside)
    return parent, children | inside


def ledger_of(project: Path) -> pd.DataFrame:
    """Return the ledger as a table."""
    file = project / "data/smoke/07_model_output/ledger.json"
    return pd.DataFrame([cost.model_dump() for cost in read_records(file)])


def test_it_plans_all_four_kinds_of_space_and_names_the_report(finished):
    log = (finished / "run.log").read_text()
    report = finished / "data/smoke/08_reporting/report.html"
    assert f"The report: {report}" in log
    assert "5 searches and 15 training runs" in log
    assert report.stat().st_size > 1_000_000


def test_the_plan_foretold_what_the_ledger_shows(finished):
    """Equal where the architecture is known beforehand; else within what bins of 5% and shapes of one size allow."""
    planned = pd.read_parquet(finished / "data/smoke/08_reporting/plan.parquet").groupby(["stage", "bin", "space"])
    spent = ledger_of(finished).groupby(["stage", "bin", "space"])
    columns = ["tokens", "flops"]
    both = planned[columns].sum().join(spent[columns].sum().add_suffix("_spent"), how="outer")
    both = both[(both["flops"] > 0) | both["flops_spent"].notna()]
    for (stage, bin_name, _), row in both.iterrows():
        if stage == "search":
            # Candidates that are behind stop reading.
            assert 0.4 * row["tokens"] <= row["tokens_spent"] <= row["tokens"]
        elif stage == "evaluation":
            # Words of questions are counted as those of prose, and here they are code in a small vocabulary.
            assert row["tokens_spent"] > row["tokens"], (stage, bin_name)
        else:
            assert row["tokens_spent"] == row["tokens"], (stage, bin_name)
        known = stage in {"calibration", "teacher"} or not bin_name
        if stage not in {"search", "evaluation"}:
            # Searches begin with balanced shapes, which compute less than most that a plan draws.
            assert row["flops_spent"] == pytest.approx(row["flops"], rel=1e-9 if known else 0.45), (stage, bin_name)


def test_every_candidate_is_in_the_history_and_in_its_bin(finished):
    history = pd.read_parquet(finished / "data/smoke/07_model_output/histories.parquet")
    spaces = pd.read_csv(finished / "data/smoke/04_feature/search_spaces.csv").set_index(["bin", "space"])
    assert len(history) == 5 * 12
    assert not history.duplicated(["bin", "space", "key"]).any()
    for row in history.to_dict("records"):
        bounds = spaces.loc[(row["bin"], row["space"])]
        assert bounds["low"] <= row["num_parameters"] <= bounds["high"]


def test_sub_networks_keep_the_limits_of_their_bin(finished):
    """144 KiB for two bytes of a parameter and of a key or value, at 64 tokens."""
    winners = json.loads((finished / "data/smoke/07_model_output/winners.json").read_text())["value"]
    for winner in (each for each in winners if each["bin"] == "half"):
        layers = winner["selection"]["layers"]
        cached = sum(2 * layer["groups"] * 2 * layer["pairs"] for layer in layers if isinstance(layer["groups"], int))
        (taken,) = winner["taken"]
        assert taken["most"] == 144 * 2**10
        assert 2 * winner["num_parameters"] < taken["amount"] <= taken["most"]
        if cached:
            assert taken["amount"] == 2 * winner["num_parameters"] + 64 * 2 * cached
    reporting = finished / "data/smoke/08_reporting"
    assert "memory of at most 144.0 KiB" in (reporting / "report.md").read_text()
    assert "at most 144.0 KiB" in (reporting / "plan.md").read_text()


def test_every_export_is_certified(finished):
    certificates = pd.read_parquet(finished / "data/smoke/07_model_output/certificates.parquet")
    assert len(certificates) == 5
    assert (certificates["largest_logit_difference"] <= 1e-4).all()
    assert set(certificates["space"][~certificates["native"]]) == {"coarse_layerwise", "fine_layerwise"}
    for folder in (finished / "data/smoke/06_models").glob("*/*/subnet"):
        card = (folder / "README.md").read_text()
        assert "Licences and attribution" in card
        assert "PSF-2.0" in card
        assert json.loads((folder / "certificate.json").read_text())["num_parameters"] > 0


def test_trained_sub_networks_have_card_and_certificate(finished):
    for folder in (finished / "data/smoke/06_models").glob("*/*"):
        subnet = json.loads((folder / "subnet/certificate.json").read_text())
        for arm in ("subnet_init", "distilled"):
            found = json.loads((folder / arm / "certificate.json").read_text())
            assert found["kept_channels"] == subnet["kept_channels"]
            assert (found["training"]["arm"], found["training"]["start"]) == (arm, subnet["fingerprint"])
            assert found["fingerprint"] == (folder / f"{arm}.fingerprint").read_text() != subnet["fingerprint"]
            card = ModelCard.load(folder / arm / "README.md")
            results = {(result.dataset_name, result.metric_type) for result in card.data.eval_results}
            assert {("encodings, held out", "loss"), ("heldout_last_word", "acc")} <= results
            assert "on 2,048 tokens, peak learning rate" in card.text
            assert (folder / arm / "certificate_check.py").is_file()
        assert not (folder / "random_init/README.md").exists()


def test_the_report_tells_both_baselines_and_no_invented_ratio(finished):
    results = pd.read_parquet(finished / "data/smoke/08_reporting/results.parquet")
    assert set(results["model"]) >= {"random_init", "subnet_init", "distilled"}
    savings = pd.read_parquet(finished / "data/smoke/08_reporting/savings.parquet")
    unreached = savings[savings["status"] != "reached"]
    assert unreached["ratio_training"].isna().all()


def test_every_model_was_asked_and_every_architecture_timed(finished):
    tasks = pd.read_parquet(finished / "data/smoke/08_reporting/tasks.parquet")
    assert set(tasks["task"]) == {"heldout_last_word", "heldout_continuation"}
    assert (tasks.groupby("task")["model"].count() == 1 + 5 * 3).all()
    assert (tasks["num_questions"] == 8).all()
    assert tasks["standard_error"].notna().all()
    speeds = pd.read_parquet(finished / "data/smoke/08_reporting/speeds.parquet")
    assert speeds["model"].tolist() == ["teacher", "subnet"] * 5
    assert (speeds[["prefill_seconds", "decode_seconds", "peak_bytes"]] > 0).all(axis=None)
    ledger = ledger_of(finished)
    arms = ledger[ledger["stage"] == "evaluation"].groupby("arm")["flops"].agg(["count", "min"])
    # Per variant the losses and samples of three arms and the speed; the teacher's losses, samples and two tasks; per
    # arm two tasks.
    assert arms["count"].to_dict() == {
        "": (3 + 3 + 1) * 5 + 1 + 1 + 2,
        "distilled": 10,
        "random_init": 10,
        "subnet_init": 10,
    }
    assert (arms["min"] > 0).all()


def test_mlflow_has_a_run_for_the_study_every_variant_and_every_training(finished):
    parent, children = tracked(finished)
    assert set(children) == VARIANTS | TRAININGS | {"teacher"}
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert parent.data.params["search.population"] == "4"
    for variant in VARIANTS:
        assert {"search.best_loss", "subnet.decode_seconds"} <= set(children[variant].data.metrics)
        assert "space.layerwise" in children[variant].data.params
    asked = {"heldout_continuation.acc_norm", "heldout_last_word.acc"}
    assert asked <= set(children["teacher"].data.metrics)
    for training in TRAININGS:
        metrics, params = children[training].data.metrics, children[training].data.params
        assert {"train_loss", "heldout_loss", "validation_loss", *asked} <= set(metrics)
        assert "arm.learning_rate" in params


def test_every_run_says_what_it_came_from(finished):
    parent, children = tracked(finished)
    assert parent.info.run_name == "whole study"
    for run in (parent, *children.values()):
        tags = run.data.tags
        assert tags["environment"] == "smoke"
        assert tags["git_commit"]
        assert tags["teacher.path"] == str(finished / "data/smoke/03_primary/teacher")
        assert len(tags["teacher.fingerprint"]) == 16
        assert tags["tokens.fingerprint"]
    assert len({run.data.tags["tokens.fingerprint"] for run in children.values()}) == 1
    assert "system/evolve.seconds" in children["half.coarse_uniform"].data.metrics
    assert "system/training.seconds" in children["half.coarse_uniform.distilled"].data.metrics


def test_every_catalog_output_is_found_from_its_run(finished, monkeypatch):
    """Law: what a node wrote is an artifact of its run, as it is on disk, or its path and hash are tags there."""
    monkeypatch.chdir(finished)
    configure_project("budwood")
    loader = OmegaConfigLoader(str(finished / "conf"), env="smoke", **settings.CONFIG_LOADER_ARGS)
    (hook,) = (hook for hook in settings.HOOKS if isinstance(hook, ParametersHook))
    monkeypatch.setattr(hook, "parameters", read_parameters(loader["parameters"]))
    configure_project("budwood")
    catalog = DataCatalog.from_config(loader["catalog"])
    parent, children = tracked(finished)
    outputs = pipelines["__default__"].all_outputs()
    trained = {
        name: f"{node.namespace.partition('.')[2]}.{node.short_name.removeprefix('train_')}"
        for node in pipelines["__default__"].nodes
        if node.short_name.startswith("train_")
        for name in node.outputs
    }
    assert len(outputs) > 100
    copied = set()
    for name in outputs:
        dataset = catalog.get(name)
        path, short = finished / dataset._filepath, name.rpartition(".")[2]
        variant = ".".join(name.split(".")[1:3])
        run = children[trained.get(name, variant)] if name.startswith("subnets.") else parent
        if dataset.metadata["mlflow"] == "artifact":
            artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "artifacts" / path.name
            assert contents(artifact) == contents(path), name
            copied |= set(contents(artifact))
        else:
            assert run.data.tags[f"{short}.path"] == str(path), name
            told = dataset.load()
            expected = fingerprint(told) if isinstance(told, Path) else told.fingerprint
            assert run.data.tags[f"{short}.fingerprint"] == expected, name
    assert "report.html" in copied
    assert not {"model.safetensors", "tokens.bin"} & copied


def contents(path: Path) -> dict[str, bytes]:
    """Return what a file or a folder holds, by name."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files, path
    return {file.name: file.read_bytes() for file in files}


def test_a_second_run_repeats_nothing_and_ends_with_the_same_numbers(finished, tmp_path):
    project = copy_finished(finished, tmp_path / "project")
    before = pd.read_parquet(finished / "data/smoke/08_reporting/results.parquet")
    done = kedro(project, "run", "--env=smoke", "--namespaces=subnets.quarter.coarse_layerwise")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    reused = [Path(line.split()[-1]).name.rpartition("-")[0] for line in output.splitlines() if "Reusing" in line]
    once = {"search": 1, "choice": 1, "export": 1}
    assert Counter(reused) == once | {"scores": 3, "tasks": 3, "samples": 3, "start_gate": 2, "certificate": 2}, output[
        -3000:
    ]
    assert "step/s" not in output, "a training looks itself at what is finished, and takes no step"
    assert "step/s" in (finished / "run.log").read_text()
    (first, again) = (tracked(of)[1]["quarter.coarse_layerwise"].data.metrics for of in (finished, project))
    searched = {name: value for name, value in first.items() if name.startswith("search.")}
    assert searched
    assert searched.items() <= again.items(), "a search that is found is tracked as one that runs"
    scores = read_records(project / "data/smoke/07_model_output/quarter/coarse_layerwise/scores.json")
    kept = before[(before["bin"] == "quarter") & (before["space"] == "coarse_layerwise")].set_index("model")
    for score in scores:
        losses = [loss for values in score.losses.values() for loss in values]
        assert sum(losses) / len(losses) == pytest.approx(kept.loc[score.arm, "loss"])
