"""A part of a study does not begin without what it reads, and says where that was made with other parameters."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.framework.project import pipelines

from budwood.pipelines.inputs import InputsHook

pytestmark = pytest.mark.usefixtures("smoke_project")

PARAMETERS = {"params:teacher": "one", "params:corpus": "this", "params:search": 7, "params:conditions": 1}


def begin(name: str, folder: Path, there: set[str] | None = None, **changed: object) -> InputsHook:
    """Begin a pipeline where only some datasets exist, and some parameters are others."""
    hook, parameters = InputsHook(), PARAMETERS | {f"params:{name}": value for name, value in changed.items()}
    hook.after_context_created(SimpleNamespace(project_path=folder, config_loader={"globals": {"data": "data"}}))
    exists = (lambda dataset: dataset in {"workspace", *there}) if there is not None else lambda _: True
    catalog = SimpleNamespace(exists=exists, keys=lambda: list(parameters), load=parameters.__getitem__)
    hook.before_pipeline_run({}, pipelines[name], catalog)
    return hook


def run(name: str, folder: Path, **changed: object) -> None:
    """Run a pipeline as far as the hook sees it."""
    hook = begin(name, folder, **changed)
    for node in pipelines[name].nodes:
        for output in node.outputs:
            hook.after_dataset_saved(output, node)


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("evolution", {"tokens"}, "^importance, teacher must be made first: run --pipelines=teacher, or"),
        ("corpus", set(), "^teacher must be made first: run --pipelines=corpus,teacher, or"),
        ("export", set(), r"^subnets\.half.* and \d+ more must .*=corpus,teacher,evolution, or the whole"),
    ],
)
def test_what_is_missing_is_named_with_all_that_makes_it(name, there, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        begin(name, tmp_path, there)


@pytest.mark.parametrize(("name", "there"), [("__default__", set()), ("plan", set()), ("corpus", {"teacher"})])
def test_what_has_all_inputs_begins(name, there, tmp_path):
    begin(name, tmp_path, there)


def test_nodes_that_are_left_out_need_no_inputs(tmp_path):
    hook, catalog = begin("plan", tmp_path), SimpleNamespace(exists=lambda _: False, keys=list)
    hook.before_pipeline_run({"only_missing_outputs": True}, pipelines["corpus"], catalog)


@pytest.mark.parametrize(
    ("name", "changed", "warning"),
    [
        ("evolution", {"corpus": "that"}, "importance, teacher, tokens: made with other values of corpus, and read as"),
        ("evolution", {"corpus": "that"}, "run --pipelines=corpus,teacher too, or the whole study"),
        (
            "export",
            {"search": 8},
            "more: made with other values of search, and read as it is; run --pipelines=evolution",
        ),
    ],
)
def test_what_was_made_with_other_parameters_is_named(name, changed, warning, tmp_path, caplog):
    for each in ("teacher", "corpus", "teacher", "evolution"):
        run(each, tmp_path)
    assert not caplog.text
    begin(name, tmp_path, **changed)
    assert warning in caplog.text


@pytest.mark.parametrize(
    ("name", "changed"),
    [("evolution", {"search": 8}), ("evolution", {"conditions": 2}), ("__default__", {"corpus": "that"})],
)
def test_what_a_run_makes_again_may_be_made_with_others(name, changed, tmp_path, caplog):
    for each in ("teacher", "corpus", "teacher", "evolution"):
        run(each, tmp_path)
    begin(name, tmp_path, **changed)
    assert not caplog.text
