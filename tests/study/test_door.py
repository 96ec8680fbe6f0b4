"""The study as a Python object: what the documentation shows, what is refused, and that it does what the nodes do."""

import math
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from projects import ROOT, raw_parameters
from transformers import AutoModelForCausalLM

import budwood
from budwood.arch.count import kv_cache_bytes_per_token, num_parameters
from budwood.models.device import choose_compute
from budwood.parameters import read_parameters
from budwood.pipelines.evolution.nodes import choose_winner, evolve
from budwood.pipelines.export.nodes import export_subnet
from budwood.pipelines.teacher.nodes import rank_components
from budwood.records.locks import FolderInUseError, holding
from budwood.study import choice, devices
from budwood.study import stage as stages
from budwood.training.launch import run_job
from budwood.training.settings import Engine

pytestmark = pytest.mark.slow

TOLERANCE = 2e-6
"""Of logits in float32, whose products may be summed in another order."""

FEW = budwood.SearchSettings(
    population=3, epochs=1, num_elites=1, num_mutants=1, num_crossovers=1, num_randoms=1, num_finalists=1
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the names that the documented example leaves behind, and its folder."""
    folder = tmp_path_factory.mktemp("door")
    return run_example(folder) | {"folder": folder}


def run_example(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["door.py", str(folder)])
        return runpy.run_path(str(ROOT / "docs" / "door.py"))


def test_the_example_stays_short():
    assert len((ROOT / "docs" / "door.py").read_text().splitlines()) <= 40


def test_the_example_finds_trains_and_reports(example):
    assert set(example["found"]) == {"half", "quarter"}
    sizes = [example["found"][name].winner.num_parameters for name in ("half", "quarter")]
    assert sizes[0] > sizes[1]
    losses = example["losses"]
    assert losses["half.search.best_loss"] > 0
    assert losses["quarter.search.best_loss"] > 0
    assert losses["heldout_loss"] > 0
    assert (example["found"]["half"].checkpoint.folder / "certificate.json").is_file()


def test_a_second_run_repeats_nothing(example, monkeypatch):
    made = []

    def save(_: object, folder: Path) -> None:
        made.append(folder.name.partition("-")[0])

    monkeypatch.setattr(stages, "save", save)
    again = run_example(example["folder"])
    # What was read of files of text is compared at every run, and a trained model with its hashes.
    assert made == ["corpus", "training", "training"]
    assert again["found"]["half"].winner == example["found"]["half"].winner
    assert again["losses"]["heldout_loss"] == example["losses"]["heldout_loss"]


def test_what_is_activated_computes_what_is_extracted(example):
    study, space = example["study"], example["space"]
    ids = torch.arange(64)[None]
    for selection in (example["best"], example["half"]):
        active = study.activate(selection, space)
        stored = AutoModelForCausalLM.from_pretrained(study.extract(selection, space).checkpoint.folder)
        with torch.no_grad():
            difference = (active(ids).logits - stored(ids).logits).abs().max()
        assert difference <= TOLERANCE


def test_a_bin_of_memory_alone_is_planned_and_searched(example):
    """96 KiB at 64 tokens; the whole teacher takes 289 KiB."""
    phone = budwood.BinSettings(limits=budwood.LimitSettings(max_memory="96KiB", context=64))
    space = budwood.SpaceSettings(layerwise=True)
    planned = example["study"].plan({"phone": phone}, space=space)["taken"].max()
    assert re.fullmatch(r"memory [\d.]+ KiB to [\d.]+ KiB, at most 96.00 KiB", planned)
    found = example["study"].search({"phone": phone}, space=space, settings=FEW)["phone"]
    (taken,) = found.winner.taken
    sizes = found.checkpoint.architecture
    assert taken.amount == 2 * num_parameters(sizes) + 64 * kv_cache_bytes_per_token(sizes)
    assert 0.9 * 96 * 2**10 <= taken.amount <= taken.most == 96 * 2**10


def test_a_bin_of_time_is_planned_and_searched(example):
    """A layer takes 0.1 ms of the 0.25 ms of a token: two fit."""
    speed = budwood.ServingSpeed(layer_seconds=1e-4, bytes_per_second=1e10, flops_per_second=1e11)
    limits = budwood.LimitSettings(
        max_token_seconds=0.00025, max_prompt_seconds=0.001, prompt_tokens=32, context=64, speed=speed
    )
    quick, space = budwood.BinSettings(limits=limits, tolerance=0.3), budwood.SpaceSettings(layerwise=True)
    planned = example["study"].plan({"quick": quick}, space=space)["taken"].max()
    assert re.fullmatch(
        r"time per token [\d.]+ ms to [\d.]+ ms, at most 0.25 ms, time per prompt [\d.]+ ms to [\d.]+ ms, at most 1 ms",
        planned,
    )
    found = example["study"].search({"quick": quick}, space=space, settings=FEW)["quick"]
    token, prompt = found.winner.taken
    assert (token.limit, prompt.limit) == ("time per token", "time per prompt")
    assert 0.4 * token.most <= token.amount <= token.most == 0.00025
    assert prompt.amount <= prompt.most == 0.001
    assert found.checkpoint.architecture.num_hidden_layers <= 2


def test_a_choice_by_hand_is_described_as_one(example):
    card = (example["subnet"].checkpoint.folder / "README.md").read_text()
    assert "none, chosen by hand" in card


def test_sizes_select_the_best_of_every_axis(example):
    selection = example["study"].select(hidden_size=20, num_key_value_heads=2, head_dim=6, num_hidden_layers=3)
    assert selection.hidden == range(20)
    assert [layer.layer for layer in selection.layers] == [0, 1, 2]
    first = selection.layers[0]
    assert (first.groups, first.queries, first.pairs, first.neurons) == (range(2), range(2), range(3), range(96))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 49}, "hidden_size=49 must be a whole number between 1 and 48"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be a whole number between 1 and 4"),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4 must be a whole number between 1 and 3"),
        (
            {"num_key_value_heads": 2, "num_attention_heads": 6},
            "num_attention_heads=6 must be a whole number between 1 and 4",
        ),
        ({"num_key_value_heads": 2, "num_attention_heads": 3}, "num_attention_heads=3 must be a multiple of"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"intermediate_size": -1}, "intermediate_size=-1 must be a whole number between 1 and 96"),
    ],
)
def test_impossible_sizes_are_named(example, sizes, message):
    with pytest.raises(ValueError, match=message):
        example["study"].select(**sizes)


def test_indices_beyond_the_teacher_are_named(example):
    layer = budwood.LayerSelection(layer=0, groups=(3,), queries=(0,), pairs=(0,), neurons=(0,))
    selection = budwood.Selection(hidden=range(8), layers=(layer,))
    for act in (example["study"].activate, example["study"].extract):
        with pytest.raises(ValueError, match="layer 0, groups: index 3 is out of range"):
            act(selection, example["space"])


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("work began before everything was checked")


@pytest.mark.parametrize(
    ("bins", "settings", "message"),
    [
        ({"tiny": 1e-4}, {}, r"bins\['tiny'\]: .*cannot be reached"),
        ({"half": 1.5}, {}, r"bins\['half'\]=1.5 must be a share"),
        ({"a half": 0.5}, {}, "bins: the name 'a half' must be made of"),
        ({"half": 0.5}, {"stages": (4,)}, r"stages ends at 4 but 4 sequences are given"),
        ({"half": 0.5}, {"fitness": "magnitude"}, "ordering is activation, and must be native or magnitude"),
    ],
)
def test_searches_that_cannot_be_are_refused_before_any_work(example, monkeypatch, bins, settings, message):
    monkeypatch.setattr(stages.Workspace, "finish", refuse)
    with pytest.raises(ValueError, match=message):
        example["study"].search(bins, settings=budwood.SearchSettings(**settings))


def test_finalists_are_not_trained_by_a_launcher_without_devices(example, monkeypatch):
    monkeypatch.setattr(stages.Workspace, "finish", refuse)
    monkeypatch.setattr(devices, "choose_compute", lambda *_: choose_compute("cpu", "float32"))
    anywhere = example["study"].measurement.model_copy(update={"device": "auto"})
    study = replace(example["study"], engine=Engine(launcher="torchrun"), measurement=anywhere)
    with pytest.raises(ValueError, match="this machine has no accelerator"):
        study.search({"half": 0.5}, settings=budwood.SearchSettings(finalist_tokens=512))


def test_a_finalist_whose_training_diverges_loses(example, monkeypatch, tmp_path, caplog):
    def diverging(job, *others):
        if not jobs:
            jobs.append(job)
            raise FloatingPointError("the run diverges")
        return run_job(job, *others)

    jobs: list[Any] = []
    monkeypatch.setattr(choice, "run_job", diverging)
    study = replace(example["study"], workspace=stages.Workspace(folder=tmp_path))
    few = {"population": 4, "epochs": 0, "num_elites": 2, "num_finalists": 2, "num_mutants": 2, "num_crossovers": 1}
    settings = budwood.SearchSettings(**few, num_randoms=1, finalist_tokens=512)
    winner = study.search({"half": 0.5}, settings=settings)["half"].winner
    losses = [finalist.choice_loss for finalist in winner.finalists]
    assert math.isnan(losses[0])
    assert winner.choice_loss == losses[1]
    assert "A finalist is given up: the run diverges" in caplog.text


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("search", {"bins": {"half": 0.5}, "space": "coarse"}, r"space='coarse' must be SpaceSettings\(...\)"),
        ("search", {"bins": {"half": 0.5}, "settings": {"epochs": 2}}, r"settings={.*} must be SearchSettings"),
        (
            "search",
            {"bins": {"half": 0.5}, "schedule": {"tokens": 4}},
            r"schedule={'tokens': 4} must be Schedule\(...\)",
        ),
        ("plan", {"bins": {"half": 0.5}, "schedule": 1000}, "schedule=1000 must be Schedule"),
        ("plan", {"bins": {"half": 0.5}, "accelerator": "h1000"}, "accelerator='h1000' must be one of a100-40gb, a100"),
        ("extract", {"selection": "half"}, "selection='half' must be a Selection, such as `select` returns"),
        ("activate", {"selection": None}, "selection=None must be a Selection"),
        ("extract", {"space": {}}, "space={} must be SpaceSettings"),
        ("activate", {"space": "coarse"}, "space='coarse' must be SpaceSettings"),
        ("pretrain", {"schedule": 1000}, "schedule=1000 must be Schedule"),
        ("distill", {"settings": {"alpha": 1}}, "settings={'alpha': 1} must be DistillationSettings"),
        ("certify", {"trained": "runs/model", "subnet": None}, "trained='runs/model' must be Trained"),
    ],
)
def test_an_argument_of_another_type_is_named_before_any_work(example, monkeypatch, call, arguments, message):
    monkeypatch.setattr(stages.Workspace, "finish", refuse)
    given = {"start": example["found"]["half"].checkpoint} if call in {"pretrain", "distill"} else {}
    given |= {"selection": example["best"]} if call in {"extract", "activate"} else {}
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(example["study"], call)(**given | arguments)


def open_changed(example: dict[str, Any], folder: Path, **changes: Any) -> budwood.Study:
    measurement = example["measurement"].model_copy(update=changes)
    return budwood.open_study(example["teacher"], {"text": example["text"]}, folder=folder, measurement=measurement)


def test_too_little_text_is_refused_when_a_study_is_opened(example, tmp_path):
    with pytest.raises(ValueError, match="choice"):
        open_changed(example, tmp_path, choice=100_000)
    with pytest.raises(ValueError, match="positions"):
        open_changed(example, tmp_path, length=512)
    with pytest.raises(ValueError, match="texts: the name 'two words'"):
        budwood.open_study(example["teacher"], {"two words": "nothing.txt"}, folder=tmp_path)


def test_schedules_that_do_not_fit_are_refused(example):
    checkpoint, study = example["found"]["half"].checkpoint, example["study"]
    with pytest.raises(ValueError, match="positions"):
        study.pretrain(checkpoint, schedule=example["schedule"].model_copy(update={"sequence_length": 512}))
    with pytest.raises(ValueError, match="global_batch=100000"):
        study.distill(checkpoint, schedule=example["schedule"].model_copy(update={"global_batch": 100_000}))
    with pytest.raises(ValueError, match="greater than 0"):
        study.pretrain(checkpoint, learning_rate=0.0)


def test_a_trained_sub_network_is_certified_as_the_cut_is(example):
    """Its folder has card, certificate and check, also after it was written again; another cut is refused."""
    study, half, taught = example["study"], example["found"]["half"], example["taught"]
    certificate, folder = study.certify(taught, half), taught.model.folder
    assert certificate.training.distilled
    assert certificate.training.start == half.checkpoint.fingerprint
    assert certificate.fingerprint == taught.model.fingerprint
    assert certificate.kept_channels == half.certificate.kept_channels
    assert certificate.largest_logit_difference <= certificate.tolerance
    assert {cost.stage for cost in certificate.costs} == {"certificate"}
    kept = {name: (folder / name).read_text() for name in ("README.md", "certificate.json", "certificate_check.py")}
    assert "distilled from its teacher on 1,024 tokens" in kept["README.md"]
    for name in kept:
        (folder / name).unlink()
    assert study.certify(taught, half) == certificate
    assert {name: (folder / name).read_text() for name in kept} == kept
    with pytest.raises(ValueError, match=r"subnet=.* is not what was trained: its fingerprint is"):
        study.certify(taught, example["found"]["quarter"])


def test_a_folder_in_use_is_named(example):
    folder = next(example["folder"].glob("corpus-*"))
    with holding(folder, "a test"), pytest.raises(FolderInUseError, match=f"{folder.name} is in use: a test"):
        run_example(example["folder"])


def test_a_cached_teacher_is_asked_once(example):
    settings = budwood.DistillationSettings(loss="topk_tail", top_k=16, teacher="cached")
    trained = example["study"].distill(
        example["found"]["half"].checkpoint, schedule=example["schedule"], settings=settings
    )
    assert trained.record.tokens == example["schedule"].num_tokens
    assert list(example["folder"].glob("teacher_cache-*"))


def test_names_are_imported_when_they_are_used():
    assert set(budwood.__all__) <= set(dir(budwood))
    assert all(getattr(budwood, name) for name in budwood.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        budwood.nothing  # noqa: B018 - the access is what is tested


def test_the_door_does_what_the_nodes_do(tmp_path):
    parameters = read_parameters(raw_parameters("smoke"))
    conditions, space, search = parameters.conditions, parameters.spaces["coarse_uniform"], parameters.search
    bin_, measurement = parameters.bins["half"], parameters.measurement
    study = budwood.open_study(parameters.teacher, parameters.corpus, folder=tmp_path / "door", measurement=measurement)
    found = study.search({"half": bin_}, space=space, settings=search)["half"]

    text = study.teacher, study.tokens
    own = tmp_path / "nodes"
    importance, ranking, _ = rank_components(*text, conditions, own, statistics=True, elimination=True, orderings=())
    ranked = study.teacher, importance, study.tokens
    history, _, finalists = evolve(*ranked, bin_, space, search, conditions, own)
    winner, cut = choose_winner(*ranked, finalists, space, search, conditions, own)
    _, certificate = export_subnet(
        cut, winner, study.record, study.tokens, space, parameters.corpus, parameters.serving, own
    )

    charged = winner.charged(finalists, ranking)
    assert found.winner.model_dump(exclude={"costs"}) == charged.model_dump(exclude={"costs"})
    assert [cost.stage for cost in ranking] == list(finalists.ranking) == ["calibration", "elimination"]
    spent = [*ranking, *finalists.costs, *found.winner.costs, finalists.gathering.cost]
    assert found.winner.search_flops == pytest.approx(sum(cost.flops for cost in spent if cost.stage != "certificate"))
    assert found.winner.search_flops > found.history["flops"].sum() + finalists.gathering.cost.flops > 0
    assert found.history["loss"].tolist() == history["loss"].tolist()
    assert found.certificate == certificate
    for name in ("importance", "search", "choice"):
        declared = [{file.name for file in home.glob(f"{name}-*")} for home in (tmp_path / "door", own)]
        assert declared[0] == declared[1]


def test_the_half_of_the_quickstart_is_that_of_the_configuration():
    half, parameters = runpy.run_path(str(ROOT / "docs" / "half.py")), read_parameters(raw_parameters("base"))
    assert half["TEACHER"] == parameters.teacher
    assert budwood.CorpusSettings(sources=half["TEXTS"]) == parameters.corpus
    assert half["MEASUREMENT"] == parameters.measurement
    assert half["SPACE"] == parameters.spaces["coarse_uniform"]
    assert half["SEARCH"] == parameters.search
    assert half["BINS"]["half"] == parameters.bins["half"]
