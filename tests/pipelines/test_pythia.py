"""The paper's study: its environments hold it whole, plan without a download, and run on a tiny random teacher."""

import pandas as pd
import pytest
from kedro.framework.project import configure_project, settings
from omegaconf import OmegaConf
from projects import ROOT, copy_project, kedro

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.models.teacher import describe_teacher
from budwood.parameters import ProjectParameters, read_parameters
from budwood.pipelines.loader import EnvironmentLoader
from budwood.pipelines.plan.nodes import plan_study
from budwood.records.form import read_records

STUDIES = {"pythia_6_9b": (6_857_302_016, 32), "pythia_12b": (11_846_072_320, 36)}
BINS = {"pythia_410m": 405_334_016, "pythia_1b": 1_011_781_632, "pythia_2_8b": 2_775_208_960}
TINY = """
teacher:
  model: null
  architecture: null
  random:
    model_type: gpt_neox
    hidden_size: 48
    intermediate_size: 96
    num_hidden_layers: 4
    num_attention_heads: 6
    max_position_embeddings: 256
    tie_word_embeddings: false
corpus:
  sources:
    nemotron_cc:
      dataset: null
      dataset_config: null
      path: "package://encodings/cp*.py"
      splits: {train: 0.8, validation: 0.2}
    wikitext: {dataset: null, dataset_config: null, document_start: null, path: "package://asyncio/*.py"}
measurement: {length: 32, calibration: 2, selection: 3, choice: 1, validation: 2, heldout: 2, batch_size: 2}
bins:
  pythia_410m:
    center: null
    fraction: 0.4
    reference: {vocab_size: 257, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
grid: {pythia_1b: null, pythia_2_8b: null}
search: {population: 3, epochs: 1, num_elites: 2, num_mutants: 1, num_crossovers: 1, num_randoms: 1}
protocol: {probe_tokens: 256}
schedule: {tokens: 512, sequence_length: 32, global_batch: 4, micro_batch: 2, num_evaluations: 1}
arms: {distilled: {distillation: {top_k: 16}}}
engine: {compile_loss: "off"}
"""
"""Budgets and a teacher for a minute; everything else stays the paper's."""


def parameters(environment: str) -> ProjectParameters:
    configure_project("budwood")
    loader = EnvironmentLoader(str(ROOT / "conf"), env=environment, **settings.CONFIG_LOADER_ARGS)
    return read_parameters(loader["parameters"])


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest) -> tuple[str, ProjectParameters]:
    return request.param, parameters(request.param)


def test_it_is_the_papers_study(study):
    name, given = study
    size, depth = STUDIES[name]
    teacher = describe_teacher(given.teacher)
    assert (num_parameters(teacher), teacher.num_hidden_layers) == (size, depth)
    kinds = set()
    for bin_name, space_name in given.searched:
        bin_, space = given.bins[bin_name], given.spaces[space_name]
        assert bin_.parameter_bin(size) == ParameterBin.around(BINS[bin_name])
        assert num_parameters(bin_.reference.architecture()) == BINS[bin_name]
        assert (space.ordering, space.rope, space.compensation, space.alignment) == ("native", "rebuild", None, 1)
        kinds.add((bin_name, space.granularity, space.layerwise))
    assert len(kinds) == 3 * 4
    search, schedule = given.search, given.schedule
    assert (search.num_evaluations, search.stages, search.num_finalists) == (5050, (), 1)
    assert (schedule.num_steps, schedule.tokens_per_step) == (4624, 2_162_688)
    assert (given.measurement.selection, given.measurement.length) == (1000, 512)
    assert {arm["learning_rate"] for arm in given.arms.model_dump().values()} == {None}
    assert schedule.peak_learning_rate == 3e-4
    wanted = {"alpha": 0.2, "beta": 0.8, "temperature": 0.9, "loss": "topk_renorm", "top_k": 1024}
    assert given.arms.distilled.distillation.model_dump(include=set(wanted)) == wanted
    assert given.protocol.probe_schedule(schedule).num_steps == 925


def test_it_is_planned_without_a_download(study, tmp_path):
    _, given = study
    wide = given.plan.model_copy(update={"disk_gb": 1e6})
    planned, page = plan_study(given.model_copy(update={"plan": wide}), tmp_path)
    planned.to_parquet(tmp_path / "plan.parquet")  # exaFLOPs fit no integer
    searches = planned[planned["stage"] == "search"].groupby("bin")["paper_flops"].first() / 1e18
    assert {name: round(flops, 1) for name, flops in searches.items()} == dict(zip(BINS, (2.3, 5.4, 15.4), strict=True))
    trained = planned[planned["paper_flops"].notna() & (planned["stage"] == "training")]
    references = trained.groupby("bin")["paper_flops"].first() / 1e18
    assert references.to_dict() == pytest.approx(dict(zip(BINS, (27.25, 62.55, 178.85), strict=True)), rel=1e-3)
    honest = planned[planned["stage"] == "search"].groupby("bin")["flops"].first() / 1e18
    # The audit's 1.96, 4.87 and 14.11 are those of Pythia's own shapes, which are deeper than most members.
    assert honest.to_dict() == pytest.approx(dict(zip(BINS, (1.96, 4.87, 14.11), strict=True)), rel=0.2)
    assert "12 searches, 12 probes and 12 training runs" in page
    assert "of a device, which has" not in page
    assert "search fewer fine spaces in one run" in page


def test_the_studies_differ_in_their_teacher_and_what_fits_beside_it():
    one, other = (parameters(name).model_dump() for name in STUDIES)
    for given in (one, other):
        del given["teacher"], given["schedule"]["micro_batch"]
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_its_pipelines_run_on_a_tiny_teacher_of_the_family(name, tmp_path):
    project = copy_project(tmp_path / "project")
    file = project / f"conf/{name}/parameters.yml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(TINY)), file)
    done = kedro(project, "run", f"--env={name}")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert "4 searches, 4 probes and 4 training runs" in output
    data = project / "data" / name
    certificates = pd.read_parquet(data / "07_model_output/certificates.parquet")
    assert len(certificates) == 4
    assert (certificates["largest_logit_difference"] <= 1e-4).all()
    savings = pd.read_parquet(data / "08_reporting/savings.parquet")
    of_subnets = savings[(savings["baseline"] == "random_init") & (savings["arm"] != "reference_init")]
    assert len(of_subnets) == 2
    # Searches of the other three spaces of the bin, and probes of all four; the teacher keeps its own order, for which
    # nothing is measured.
    ledger = pd.DataFrame([cost.model_dump() for cost in read_records(data / "07_model_output/ledger.json")])
    ordering = ledger.loc[ledger["stage"].isin(["calibration", "elimination"]), "flops"].sum()
    assert ordering == 0
    assert (of_subnets["selection_flops"] > 3 * (of_subnets["search_flops"] - ordering)).all()
