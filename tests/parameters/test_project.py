"""What a study needs of its teacher follows from its spaces and searches."""

import os
import sys

import pytest
from projects import raw_parameters

from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.loader import EnvironmentLoader
from budwood.settings import CONFIG_LOADER_ARGS
from budwood.study.settings import BinSchedule

NATIVE = {"layerwise": False, "ordering": "native"}
SCORED = {"scores": "paper", "stages": []}


def study(space: dict, search: dict, ablations: dict | None = None, **further: dict) -> ProjectParameters:
    """Return the smoke study in one space, its search changed, with further groups."""
    raw = raw_parameters("smoke")
    changed = {"spaces": {"one": space}, "grid": {"half": ["one"]}, "search": raw["search"] | search}
    return read_parameters(raw | changed | {"ablations": ablations} | further)


@pytest.mark.parametrize(
    ("space", "search", "statistics", "elimination"),
    [
        (NATIVE, {}, False, False),
        (NATIVE | {"compensation": {}}, {}, False, False),
        ({"layerwise": False, "ordering": "magnitude"}, {}, False, False),
        ({"layerwise": False}, {}, True, True),
        ({"layerwise": False, "layer_score": "change"}, {}, True, False),
        (NATIVE, SCORED | {"fitness": "magnitude"}, False, False),
        (NATIVE, SCORED | {"fitness": "importance"}, True, False),
        # Listing 6: a method for every axis.
        (NATIVE, SCORED | {"fitness": "magnitude", "layer_scores": "importance"}, True, False),
    ],
)
def test_a_teacher_is_measured_only_where_something_needs_it(space, search, statistics, elimination):
    parameters = study(space, search)
    assert (parameters.needs_statistics, parameters.needs_elimination) == (statistics, elimination)


def test_a_metric_of_an_ablation_needs_statistics():
    ablations = {
        "students": {"half": "one"},
        "spaces": ["one"],
        "metric_space": "one",
        "metrics": ["perplexity", "importance"],
        "logits": {"all": {"loss": "full"}},
        "teachers": {"own": {}},
        "tokens": 2048,
    }
    assert study(NATIVE, {}, ablations).needs_statistics
    assert not study(NATIVE, {}, ablations | {"metrics": ["perplexity"]}).needs_statistics


def test_two_metrics_never_call_what_they_find_by_one_name(monkeypatch):
    """Dots become `_`, which functions and modules may have."""
    monkeypatch.setitem(sys.modules, "os_path", os.path)
    ablations = {
        "students": {"half": "one"},
        "spaces": ["one"],
        "logits": {"all": {"loss": "full"}},
        "teachers": {"own": {}},
        "tokens": 2048,
    }
    alike = ablations | {"metrics": ["os.path.join", "perplexity", "os_path.join"]}
    with pytest.raises(ValueError, match=r"ablations: metrics: os.path.join and os_path.join would both .* by_os_path"):
        study(NATIVE, {}, alike)
    with pytest.raises(ValueError, match=r"ablations: metrics: perplexity and perplexity would both"):
        study(NATIVE, {}, ablations | {"metrics": ["perplexity", "perplexity"]})


def test_no_other_teacher_has_the_tokens_that_a_study_keeps():
    ablations = {
        "students": {"half": "one"},
        "spaces": ["one"],
        "metric_space": "one",
        "logits": {"all": {"loss": "full"}},
        "teachers": {"other": {"source": {"random": {"hidden_size": 16}}}},
        "tokens": 2048,
    }
    assert study(NATIVE, {}, ablations).ablations
    with pytest.raises(ValueError, match=r"ablations.teachers: with teacher.vocabulary"):
        study(NATIVE, {}, ablations, teacher={"random": {"hidden_size": 16}, "vocabulary": 300})


def test_a_bin_changes_its_own_schedule_and_arms_alone():
    raw = raw_parameters("smoke")
    own = {"schedule": {"peak_learning_rate": 1e-4, "warmup_steps": 2, "micro_batch": 1}}
    own["arms"] = {"distilled": {"learning_rate": None, "micro_batch": 4, "distillation": {"alpha": 0.5}}}
    raw["bins"]["half"] |= own
    parameters = read_parameters(raw)
    half, quarter = (parameters.conditions_by_bin[name] for name in ("half", "quarter"))
    assert quarter == parameters.conditions
    assert (half.schedule.num_warmup_steps, half.schedule.micro_batch) == (2, 1)
    assert half.schedule.num_steps == parameters.schedule.num_steps
    assert half.arms.distilled.rate(half.schedule) == 1e-4
    assert half.arms.distilled.fitted(half.schedule).micro_batch == 4
    assert half.arms.subnet_init == parameters.arms.subnet_init
    assert half.arms.distilled.distillation.alpha == 0.5
    assert half.arms.distilled.distillation.beta == parameters.arms.distilled.distillation.beta
    # What a bin changes of training decides nothing of its search.
    alone = parameters.bins["half"].alone()
    assert (alone.schedule, alone.arms, alone.fraction) == (BinSchedule(), {}, 0.5)


def test_one_cache_serves_all_bins_or_none():
    raw = raw_parameters("smoke")
    raw["arms"]["distilled"]["distillation"] |= {"loss": "sampled", "teacher": "cached"}
    raw["bins"]["half"]["arms"] = {"distilled": {"distillation": {"num_samples": 8}}}
    with pytest.raises(ValueError, match="is that of all bins where its teacher is cached"):
        read_parameters(raw)


def test_an_environment_extends_another(tmp_path):
    conf = {
        "base": ("", "a: {x: 1, y: 1, z: 1}"),
        "first": ("", "a: {y: 2, z: 2}\nb: {c: 1}"),
        "second": ("extends: first", "a: {z: 3}\nb: null"),
        "third": ("extends: second", "d: [1]"),
        "round": ("extends: trip", ""),
        "trip": ("extends: round", ""),
    }
    for name, (own, parameters) in conf.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "globals.yml").write_text(own)
        (tmp_path / name / "parameters.yml").write_text(parameters)

    def read(name: str, **given: object) -> dict:
        arguments = {"env": name, "runtime_params": given, **CONFIG_LOADER_ARGS}
        return EnvironmentLoader(str(tmp_path), **arguments)["parameters"]

    assert read("first") == {"a": {"x": 1, "y": 2, "z": 2}, "b": {"c": 1}}
    assert read("third") == {"a": {"x": 1, "y": 2, "z": 3}, "b": None, "d": [1]}
    assert read("second", a={"z": 9})["a"] == {"x": 1, "y": 2, "z": 9}
    with pytest.raises(ValueError, match="extends: round extends itself by way of"):
        read("round")
