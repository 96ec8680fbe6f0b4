"""A part of a study does not begin without what it reads."""

from types import SimpleNamespace

import pytest
from kedro.framework.project import configure_project, pipelines
from projects import ROOT

from budwood.pipelines.inputs import InputsHook


@pytest.fixture(autouse=True)
def _smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KEDRO_ENV", "smoke")
    configure_project("budwood")


def begin(name: str, *there: str, **filters: bool) -> None:
    """Begin a pipeline where only some datasets exist."""
    catalog = SimpleNamespace(exists=lambda dataset: dataset in {"workspace", *there})
    InputsHook().before_pipeline_run(filters, pipelines[name], catalog)


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("evolution", ["tokens"], "^importance, teacher must be made first: run --pipelines=teacher, or"),
        ("corpus", [], "^teacher must be made first: run --pipelines=corpus,teacher, or"),
        ("export", [], r"^subnets\.half.* and \d+ more must .*=corpus,teacher,evolution, or the whole"),
    ],
)
def test_what_is_missing_is_named_with_all_that_makes_it(name, there, message):
    with pytest.raises(ValueError, match=message):
        begin(name, *there)


@pytest.mark.parametrize("name", ["__default__", "plan"])
def test_what_needs_nothing_begins(name):
    begin(name)


def test_what_has_all_inputs_begins():
    begin("corpus", "teacher")


def test_nodes_that_are_left_out_need_no_inputs():
    begin("corpus", only_missing_outputs=True)
