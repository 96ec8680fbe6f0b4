"""The reference has every setting, dataset, target and pipeline, and examples name settings and options that exist."""

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache

import pytest
import reference
import yaml
from kedro.framework.cli.project import run as kedro_run
from omegaconf import OmegaConf
from projects import ROOT, raw_parameters
from shown import DOCS, blocks, commands

import budwood
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipeline_registry import _NEEDED, PIPELINES
from budwood.pipelines.ablations.pipeline import PREFIX
from budwood.pipelines.plan.nodes import plan_study
from budwood.pipelines.store import TrackingSettings
from budwood.records.strict import Strict
from budwood.study.comparison import NAMES

ENVIRONMENTS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
EXAMPLES = {"gpus", "slurm", "mine"}
"""Environments that pages tell readers to make."""
OTHERS = {"base_model"}
"""First keys of YAML that is for other programs."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ALL_PIPELINES = {*PIPELINES, *_NEEDED, *(f"{PREFIX}{name}" for name in NAMES)}
SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": True,
}
"""The sizes of SmolLM2-1.7B."""
OPTIONS = {option for parameter in kedro_run.params for option in parameter.opts}


@cache
def described() -> dict[str, set[str]]:
    """Return the names that the reference has in every place."""
    found: dict[str, set[str]] = {}
    for section in (*reference.sections(), *reference.sections(TrackingSettings)):
        for path in section.paths:
            found.setdefault(path, set()).update(setting.name for setting in section.settings)
    return found


def paths_of(model: Strict, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield where every value of some parameters is, by walking the objects and not their schema."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Strict):
            yield from paths_of(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and any(isinstance(each, Strict) for each in value.values()):
            keyed = f"{prefix}{name}.{reference._KEYS[name]}."
            yield from (path for each in value.values() for path in paths_of(each, keyed))
        else:
            yield prefix.removesuffix("."), name


@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS - {"local"}))
def test_every_setting_is_in_the_reference(environment):
    parameters = read_parameters(raw_parameters(environment))
    missing = {
        f"{group}.{name}"
        for group, name in paths_of(parameters)
        if name not in described().get(group, set()) and (group, name) != reference._FROM_THE_KEY
    }
    assert not missing


@pytest.mark.slow
def test_every_entry_of_the_reference_exists_and_says_what_it_means():
    models = {model.__name__: model for model in reference._subclasses(Strict)}
    fields = {field.alias or name for model in models.values() for name, field in model.model_fields.items()}
    for section in reference.sections():
        assert section.paths
        for setting in section.settings:
            assert setting.name in fields
            assert setting.meaning, f"{section.paths[0]}.{setting.name} has no docstring"
    page = reference.settings_page()
    assert page.count("\n:   ") == sum(len(s.settings) for s in reference.sections()) + len(
        TrackingSettings.model_fields
    )


def test_the_reference_gives_range_default_and_kind():
    """Read off the classes by hand."""
    settings = {s.name: s for section in reference.sections() if "search" in section.paths for s in section.settings}
    assert (settings["population"].kind, settings["population"].default) == ("whole number, at least 1", "default `50`")
    assert settings["workers"].how
    assert not settings["population"].how
    assert settings["strategy"].kind == "`evolution`, `random`, `local`, `pareto`"


def test_every_dataset_is_in_the_catalog():
    page = reference.catalog_page()
    for file in (ROOT / "conf/base").glob("catalog*.yml"):
        for name in yaml.safe_load(file.read_text()):
            assert f"`{name.replace('{', '<').replace('}', '>').replace(':d', '')}`" in page


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_yaml_is_valid_in_the_quickstart(block, monkeypatch):
    """Every example is laid over the quickstart's parameters and validated as a run would validate it."""
    monkeypatch.setattr("budwood.search.settings.require_ray", lambda: None)
    monkeypatch.setattr("budwood.training.settings.find_spec", lambda _: True)
    monkeypatch.setattr("budwood.search.settings.check_fitness", lambda _: None)
    found = yaml.safe_load(block.text)
    if OTHERS & set(found):
        return
    if "hugging_face" in found:
        assert set(found["hugging_face"]) == {"token"}
        return
    assert set(found) <= set(ProjectParameters.model_fields), set(found) - set(ProjectParameters.model_fields)
    raw = OmegaConf.to_container(OmegaConf.merge(raw_parameters("base"), found))
    assert isinstance(raw, dict)
    read_parameters({str(name): value for name, value in raw.items()})


@pytest.mark.parametrize("command", [command for command in commands() if "make " in command])
def test_make_targets_environments_and_options_exist(command):
    words = shlex.split(re.sub(r"^sbatch .*(make .*)'$|^sky .*(make .*)$", r"\1\2", command))[1:]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    (target,) = [word for word in words if "=" not in word]
    assert target in TARGETS
    assert variables.keys() <= {"ENV", "ARGS", "DATA", "PYTHON", "ENGINES"}
    assert variables.get("ENV", "smoke") in ENVIRONMENTS | EXAMPLES
    if target == "run":
        check_run(shlex.split(variables.get("ARGS", "")))


@pytest.mark.parametrize("command", [command for command in commands() if "kedro run" in command])
def test_kedro_options_exist(command):
    check_run(shlex.split(command)[2:])


def check_run(arguments: list[str]) -> None:
    for option, _, value in (argument.partition("=") for argument in arguments):
        assert option in OPTIONS, option
        if option == "--pipelines":
            assert set(value.split(",")) <= ALL_PIPELINES
        if option == "--params":
            for change in value.split(","):
                group, _, name = change.partition("=")[0].rpartition(".")
                assert name in described()[group], change


@pytest.mark.slow
def test_a_real_study_costs_what_is_said(tmp_path):
    """Of the README's own study, with the sizes that the hub has of its teacher."""
    (block,) = [block for block in blocks("yaml") if block.page == ROOT / "README.md"]
    raw = OmegaConf.merge(raw_parameters("base"), yaml.safe_load(block.text), {"teacher": {"architecture": SMOLLM2}})
    parameters = read_parameters({str(name): value for name, value in OmegaConf.to_container(raw).items()})
    planned, page = plan_study(parameters, tmp_path)
    shares = planned.groupby("stage")["flops"].sum() / planned["flops"].sum()
    assert "**24.4 EFLOP**, **17.1 device-hours** on h100 at 40% of its peak" in page
    assert f"{shares['search']:.1%}" == "0.1%"
    for file, quoted in (("README.md", "24.4 EFLOP, or 17.1 hours"), ("docs/start/quickstart.md", "EFLOP, 17.1 hours")):
        assert quoted in " ".join((ROOT / file).read_text().split())


def test_all_names_of_the_library_are_in_the_reference():
    page = (DOCS / "reference/api.md").read_text()
    assert not [name for name in budwood.__all__ if not re.search(rf"`{name}`|\.{name}$", page, re.MULTILINE)]


def test_all_targets_and_pipelines_are_in_the_reference():
    page = (DOCS / "reference/commands.md").read_text()
    assert not {target for target in TARGETS - {"help", "install"} if f"make {target}" not in page}
    assert not {name for name in ALL_PIPELINES if f"`{name}`" not in page}
