"""What an environment says of another teacher or text is all that is said of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import ROOT

from budwood.pipelines.loader import EnvironmentLoader
from budwood.settings import CONFIG_LOADER_ARGS


def load(folder: Path, own: dict[str, Any], typed: dict[str, Any] | None = None) -> Any:
    """Return the quickstart's parameters under those of an environment and of the command line."""
    shutil.copytree(ROOT / "conf/base", folder / "base")
    (folder / "mine").mkdir()
    (folder / "mine/parameters.yml").write_text(yaml.safe_dump(own))
    return EnvironmentLoader(str(folder), env="mine", runtime_params=typed, **CONFIG_LOADER_ARGS)["parameters"]


@pytest.mark.parametrize(
    ("own", "typed", "expected"),
    [
        ({"model": "/data/mine"}, {}, {"model": "/data/mine"}),
        ({"model": "/data/mine", "license": "MIT"}, {}, {"model": "/data/mine", "license": "MIT"}),
        ({"model": None, "random": {"hidden_size": 8}}, {}, {"model": None, "random": {"hidden_size": 8}}),
        ({"model": "/data/mine", "license": "MIT"}, {"model": "x"}, {"model": "x"}),
    ],
)
def test_another_teacher_has_neither_licence_nor_attribution_of_the_quickstarts(own, typed, expected, tmp_path):
    assert load(tmp_path, {"teacher": own}, {"teacher": typed})["teacher"] == expected


def test_what_is_only_changed_keeps_what_was_said_of_it(tmp_path):
    teacher = load(tmp_path, {"teacher": {"vocabulary": 1000}})["teacher"]
    assert (teacher["license"], teacher["vocabulary"]) == ("Apache-2.0", 1000)


def test_another_text_under_an_old_name_has_no_licence_of_the_old_one(tmp_path):
    sources = load(tmp_path, {"corpus": {"sources": {"addresses": {"path": "x/*.txt"}, "french": None}}})["corpus"][
        "sources"
    ]
    assert sources["addresses"].keys() == {"path", "splits"}
    assert sources["wikipedia"]["license"] == "CC BY-SA 4.0"
    assert sources["french"] is None


def test_data_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    shutil.copytree(ROOT / "conf/base", tmp_path / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/globals.yml").write_text("data: ~/study\n")
    loader = EnvironmentLoader(str(tmp_path), env="mine", **CONFIG_LOADER_ARGS)
    assert loader["globals"]["data"] == "/home/me/study"
    assert loader["catalog"]["tokens"]["filepath"] == "/home/me/study/03_primary/tokens"


def test_an_environment_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    for name in ("base", "mine"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"env='mien': there is no folder .*/mien; there are base, mine"):
        EnvironmentLoader(str(tmp_path), env="mien", **CONFIG_LOADER_ARGS)
