"""What a study needs of its teacher follows from its spaces and searches."""

import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, settings
from projects import ROOT

from budwood.parameters import ProjectParameters, read_parameters

NATIVE = {"layerwise": False, "ordering": "native"}
SCORED = {"scores": "paper", "stages": []}


def study(space: dict, search: dict, ablations: dict | None = None, **further: dict) -> ProjectParameters:
    """Return the smoke study in one space, its search changed, with further groups."""
    configure_project("budwood")
    raw = OmegaConfigLoader(str(ROOT / "conf"), env="smoke", **settings.CONFIG_LOADER_ARGS)["parameters"]
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
    place = {"bin": "half", "space": "one"}
    ablations = {
        "student": place,
        "spaces": ["one"],
        "metric_space": "one",
        "metrics": ["perplexity", "importance"],
        "logits": {"all": {"loss": "full"}},
        "teachers": {"own": {}},
        "tokens": 2048,
    }
    assert study(NATIVE, {}, ablations).needs_statistics
    assert not study(NATIVE, {}, ablations | {"metrics": ["perplexity"]}).needs_statistics


def test_no_other_teacher_has_the_tokens_that_a_study_keeps():
    ablations = {
        "student": {"bin": "half", "space": "one"},
        "spaces": ["one"],
        "metric_space": "one",
        "logits": {"all": {"loss": "full"}},
        "teachers": {"other": {"source": {"random": {"hidden_size": 16}}}},
        "tokens": 2048,
    }
    assert study(NATIVE, {}, ablations).ablations
    with pytest.raises(ValueError, match=r"ablations.teachers: with teacher.vocabulary"):
        study(NATIVE, {}, ablations, teacher={"random": {"hidden_size": 16}, "vocabulary": 300})
