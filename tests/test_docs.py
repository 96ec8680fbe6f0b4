"""The documentation: what it names exists, what it shows runs, and it opens without a server or a network."""

import ast
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import reference
import yaml
from kedro.framework.cli.project import run as kedro_run
from omegaconf import OmegaConf
from projects import ROOT, raw_parameters

import budwood
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipeline_registry import _NEEDED, PIPELINES
from budwood.pipelines.ablations.comparison import NAMES
from budwood.pipelines.ablations.pipeline import PREFIX
from budwood.pipelines.store import TrackingSettings
from budwood.records.strict import Strict

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")])
ENVIRONMENTS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
EXAMPLES = {"gpus", "slurm", "mine"}
"""Environments that pages tell readers to make."""
OTHERS = {"base_model"}
"""First keys of YAML that is for other programs."""
README_LINES = 150
OUTDATED = re.compile(
    r"\b((fore|un)?told|whoever|shall|anew|nobody|likewise|goes on|holds?(?! out)|st(ood|ands?)(?! for)"
    r"|tells? (what|how|which|an?|the|every))\b",
    re.IGNORECASE,
)
"""Words of a manner that readers stumble over."""
SPOKEN = [*PAGES, *(ROOT / "conf").rglob("*.yml"), *(ROOT / "src").rglob("*.py")]
"""Files that people read."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:50]}"


def blocks(*languages: str) -> list[Block]:
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    found = [Block(page, *match) for page in PAGES for match in fence.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def commands(program: str) -> list[str]:
    """Return all commands of a program: lines of blocks without a language, and inline code."""
    lines = [line for block in blocks("") for line in block.text.splitlines()]
    inline = [code for page in PAGES for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))]
    found = {code.partition("  #")[0].strip() for code in (*lines, *inline)}
    return sorted(code for code in found if code.startswith(f"{program} "))


# --- settings ---------------------------------------------------------------------------------------------------------


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


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.where)
def test_python_compiles_and_names_what_exists(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str() as module, names=names) if module.partition(".")[0] in {
                "budwood",
                "transformers",
            }:
                for each in names:
                    assert hasattr(importlib.import_module(module), each.name), f"{module}.{each.name}"
            case ast.Attribute(value=ast.Name(id="budwood"), attr=name):
                assert name in budwood.__all__
            case ast.Attribute(value=ast.Name(id="study"), attr=name):
                assert hasattr(budwood.Study, name), f"study.{name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="budwood"), attr=name)) if name.endswith(
                ("Settings", "Schedule", "Compensation")
            ):
                fields = getattr(budwood, name).model_fields
                assert {keyword.arg for keyword in node.keywords} <= set(fields), name


def test_the_settings_in_python_are_valid():
    """The block that only makes settings is run as it is."""
    (block,) = [each for each in blocks("python") if "budwood.Schedule(tokens=10_000_000" in each.text]
    names: dict[str, Any] = {}
    exec(block.text, names)  # noqa: S102 - our own page
    assert names["search"].num_evaluations == 220


def test_the_fitness_of_ones_own_is_one():
    import torch

    (block,) = [each for each in blocks("python") if "def worst_token" in each.text]
    names: dict[str, Any] = {}
    exec(block.text, names)  # noqa: S102 - our own page
    logits = torch.zeros(2, 3, 5)

    class Answer(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> Any:
            return type("Output", (), {"logits": logits})

    assert torch.allclose(names["worst_token"](Answer(), torch.ones(2, 4, dtype=torch.long)), torch.tensor(5.0).log())


TINY = """budwood.TeacherSettings(
    random={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256})"""


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/guides/python.md"])
def test_the_door_opens_as_shown(page, tmp_path):
    """Every block that opens a study runs, with a tiny teacher and text that every Python brings."""
    shown = [b.text for b in blocks("python") if b.page == ROOT / page and "budwood.open_study(" in b.text]
    assert shown
    for text in shown:
        small = (
            text.replace('"HuggingFaceTB/SmolLM2-135M"', TINY)
            .replace('"texts/*.txt"', '"package://encodings/*.py"')
            .replace('folder="my-study"', f'folder={str(tmp_path)!r}, engine=budwood.Engine(compile_loss="off")')
            .replace("num_hidden_layers=20, hidden_size=480, intermediate_size=1024", "num_hidden_layers=2")
        )
        assert small.count("TeacherSettings") == small.count("package://") == 1
        exec(small, {})  # noqa: S102 - our own page


@pytest.mark.slow
@pytest.mark.parametrize("needle", ["AutoTokenizer.from_pretrained(folder)", "write_gguf(folder"])
def test_models_open_as_shown(needle, finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "data/smoke/06_models/half", tmp_path / "data/06_models/half")
    monkeypatch.chdir(tmp_path)
    shown = [block for block in blocks("python") if needle in block.text]
    assert shown
    for block in shown:
        exec(block.text, {})  # noqa: S102 - our own page


# --- commands ---------------------------------------------------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PIPELINES = {*PIPELINES, *_NEEDED, *(f"{PREFIX}{name}" for name in NAMES), "..."}
OPTIONS = {option for parameter in kedro_run.params for option in parameter.opts}


@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_environments_and_options_exist(command):
    words = shlex.split(command)[1:]
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    (target,) = [word for word in words if "=" not in word]
    assert target in TARGETS
    assert variables.keys() <= {"ENV", "ARGS", "DATA", "PYTHON", "ENGINES"}
    assert "<" in variables.get("ENV", "") or variables.get("ENV", "smoke") in ENVIRONMENTS | EXAMPLES
    if target == "run" and variables.get("ARGS", "...") != "...":
        check_run(shlex.split(variables["ARGS"]))


@pytest.mark.parametrize("command", [*commands("kedro run"), *commands(".venv/bin/kedro run")])
def test_kedro_options_exist(command):
    check_run(shlex.split(command)[2:])


def test_the_options_in_the_reference_exist():
    options = re.findall(r"`(--[a-z-]+=[^`]+)`", (DOCS / "reference/commands.md").read_text())
    assert len(options) > 3
    check_run(options)


def check_run(arguments: list[str]) -> None:
    for option, _, value in (argument.partition("=") for argument in arguments if argument.startswith("--")):
        assert option in OPTIONS, option
        if option == "--pipelines" and "<" not in value:
            assert set(value.split(",")) <= PIPELINES
        if option == "--params":
            for change in value.split(","):
                group, _, name = change.partition("=")[0].rpartition(".")
                assert name in described()[group], change
        if option == "--env" and "<" not in value:
            assert value in ENVIRONMENTS
        if option == "--namespaces":
            subnets, bin_name, *_ = value.split(".")
            assert (subnets, bin_name in {"half", "quarter", "pythia_2_8b"}) == ("subnets", True)


def test_all_targets_and_pipelines_are_in_the_reference():
    page = (DOCS / "reference/commands.md").read_text()
    assert not {target for target in TARGETS - {"help", "install"} if f"make {target}" not in page}
    assert not {name for name in PIPELINES - {"..."} if f"`{name}`" not in page}


@pytest.mark.parametrize("command", commands("python -m"))
def test_modules_exist(command):
    assert find_spec(command.split()[2]) is not None


def test_scripts_exist():
    for page in PAGES:
        for name in re.findall(r"(?<![\w/])(?:benchmarks|docs|notebooks|tests)/[\w/]+\.\w+", page.read_text()):
            assert (ROOT / name).exists() or name.endswith(("_cache.json",)), f"{page.name} names {name}"


# --- text -------------------------------------------------------------------------------------------------------------


def spoken() -> str:
    """Return all texts of the source, every value in them as an ellipsis."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.JoinedStr(values=values):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in values))
                case ast.Constant(value=str() as text):
                    found.append(text)
    return "\n".join(found)


FOREIGN = {
    "budwood needs Python 3.11 or newer",  # the Makefile
    "Unrecognized configuration class",  # transformers, in an engine
    "Unsupported CPU attention configuration",  # vLLM
    "is unknown; there are quickstart…",  # the names of a table
    "must have model.safetensors or …",
    "undecided",
    "address already in use",  # the server of MLflow
    "within the noise",
    "random_init",
    "KILLED",
}


def test_every_message_of_the_troubleshooting_is_one():
    rows = re.findall(r"^\| (.*?) \| ", (DOCS / "guides/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"``(.+?)``|(?<!`)`([^`]+)`(?!`)", row)]
    said, wanted = spoken(), {(quoted or plain).strip() for quoted, plain in messages} - FOREIGN
    patterns = {message: "[^\n]{0,300}?".join(re.escape(part) for part in message.split("…")) for message in wanted}
    assert not [message for message, pattern in patterns.items() if not re.search(pattern, said)]


def test_no_page_message_or_docstring_has_the_old_manner():
    for page in SPOKEN:
        if page.name != "CHANGELOG.md":
            for number, line in enumerate(page.read_text().splitlines(), 1):
                assert not OUTDATED.search(line), f"{page.name}:{number}: {line}"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text()):
            target = link[0] or link[1]
            if "://" not in target:
                path = (page.parent / target).resolve()
                made = path.is_relative_to(DOCS) and path.relative_to(DOCS).as_posix() in reference.PAGES
                assert made or path.exists(), f"{page.name} links to {target}"


def test_the_tree_in_the_readme_is_the_tree():
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2]
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "src/budwood").iterdir() if (path / "__init__.py").is_file()}
