"""The paper's study: its environments hold it whole, plan without a download, and run on a tiny random teacher."""

import json
from pathlib import Path

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
from budwood.records.names import ARMS
from budwood.reporting.figures import FIGURES
from budwood.search.candidate import canonical_key
from budwood.search.genes import Genes

STUDIES = {"pythia_6_9b": (6_857_302_016, 32), "pythia_12b": (11_846_072_320, 36)}
LONG = "pythia_100b"
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
      path: "package://encodings/cp*.py"
      format: text
      splits: {train: 0.7, choice: 0.15, validation: 0.15}
      max_tokens: {train: 1_000_000}
    wikitext: {dataset: null, dataset_config: null, document_start: null, path: "package://asyncio/*.py"}
measurement:
  {length: 16, reported_length: 32, calibration: 2, selection: 3, choice: 1, validation: 2, heldout: 2, batch_size: 2,
   device: cpu}
bins:
  pythia_410m: {center: null, fraction: 0.4, reference: &reference
    {vocab_size: 257, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4}}
  pythia_1b:
    {center: null, fraction: 0.55, reference: *reference, arms: {distilled: {micro_batch: 1}}}
  pythia_2_8b:
    {center: null, fraction: 0.7, reference: *reference, schedule: {micro_batch: 1, warmup_steps: 1},
     arms: {distilled: {micro_batch: 4}}}
search:
  {population: 3, epochs: 1, num_elites: 2, num_mutants: 1, num_crossovers: 1, num_randoms: 1, workers: 1,
   gpus_per_worker: 0}
protocol: {probe_tokens: 256}
schedule: {tokens: 512, sequence_length: 32, global_batch: 4, micro_batch: 2, num_evaluations: 1}
arms: {distilled: {distillation: {top_k: 16}}}
engine: {launcher: null, compile: false, compile_loss: "off"}
evaluation:
  tasks: [heldout]
  heldout: {questions: 2, context_words: 4, continuation_words: 3}
  efficiency: {prompt_tokens: 4, new_tokens: 1, repeats: 1, warmups: 0}
"""
"""Budgets and a teacher for a minute; everything else stays the paper's."""
GRID = """
grid:
  pythia_410m: [paper_coarse_uniform, paper_fine_layerwise]
  pythia_1b: [paper_coarse_layerwise]
  pythia_2_8b: [paper_fine_uniform]
ablations:
  tokens: 256
  students: {pythia_410m: paper_coarse_uniform, pythia_2_8b: null}
  metrics: [perplexity]
  logits: {top_1024: {top_k: 16}}
"""
"""Fewer spaces, so that the tests end; each of the paper's four is searched once. Ablations of two bins."""
OTHERS = {
    "pythia_12b": "{grid: {pythia_410m: [paper_coarse_uniform], pythia_1b: null, pythia_2_8b: null}, ablations: null}",
    LONG: "protocol: {probe_tokens: null}",
}
"""What is left of the other studies; that of appendix J has two searches and no probes."""


def parameters(environment: str) -> ProjectParameters:
    configure_project("budwood")
    loader = EnvironmentLoader(str(ROOT / "conf"), env=environment, **settings.CONFIG_LOADER_ARGS)
    return read_parameters(loader["parameters"])


@pytest.fixture(scope="module", params=STUDIES)
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
        assert bin_.parameter_bin(teacher) == ParameterBin.around(BINS[bin_name])
        assert num_parameters(bin_.reference.architecture()) == BINS[bin_name]
        assert (space.ordering, space.rope, space.compensation, space.alignment) == ("native", "rebuild", None, 1)
        kinds.add((bin_name, space.granularity, space.layerwise))
    assert len(kinds) == 3 * 4
    by_bin = {bin_name: given.conditions_by_bin[bin_name] for bin_name in BINS}
    peaks = {name: each.arms.subnet_init.rate(each.schedule) for name, each in by_bin.items()}
    assert peaks == {"pythia_410m": 3e-4, "pythia_1b": 3e-4, "pythia_2_8b": 1.6e-4}
    assert [each.schedule.num_warmup_steps for each in by_bin.values()] == [0, 0, 238]
    assert all(each.schedule.num_steps == 4624 for each in by_bin.values())
    search, schedule = given.search, given.schedule
    assert (search.num_evaluations, search.stages, search.num_finalists) == (5050, (), 1)
    assert (schedule.num_steps, schedule.tokens_per_step) == (4624, 2_162_688)
    assert (given.measurement.selection, given.measurement.length) == (1000, 512)
    assert {arm["learning_rate"] for arm in given.arms.model_dump().values()} == {None}
    assert schedule.peak_learning_rate == 3e-4
    wanted = {"alpha": 0.2, "beta": 0.8, "temperature": 0.9, "loss": "topk_renorm", "top_k": 1024}
    assert given.arms.distilled.distillation.model_dump(include=set(wanted)) == wanted
    assert given.protocol.probe_schedule(schedule).num_steps == 925
    # Tables 13, 14 and 17; figures are read at the length of training, on its text.
    assert len(given.evaluation.benchmarks()) == 13
    assert (given.measurement.final_length, schedule.sequence_length) == (2048, 2048)
    splits = {name: source.splits for name, source in given.corpus.sources.items()}
    assert set(splits) == {"nemotron_cc", "wikitext"}
    assert splits["nemotron_cc"].get("selection", 0) == splits["wikitext"].get("choice", 0) == 0
    assert given.corpus.sources["nemotron_cc"].format == "jsonl"
    assert (given.search.workers, given.plan.num_devices) == (8, 8)
    assert "--nproc-per-node 8" in given.engine.launcher
    batches = {getattr(each.arms, arm).fitted(each.schedule).micro_batch for each in by_bin.values() for arm in ARMS}
    assert not [batch for batch in batches if schedule.global_batch % (8 * batch)]


def test_its_ablations_are_the_papers(study):
    name, given = study
    ablations = given.ablations
    assert set(ablations.students) == set(BINS)
    assert ablations.tokens == 2_000_000_000
    assert set(ablations.teachers) == {"pythia_6_9b", "pythia_12b", "pythia_1b"}
    own = [teacher for teacher, from_where in ablations.teachers.items() if from_where.source is None]
    assert own == [name]
    assert len(ablations.kd_grid.combinations()) == 18  # appendix G
    assert ablations.kd_grid.top_k == (1024, 2048, None)
    assert {variant.space for variant in map(ablations.metric_variant, BINS)} == set(ablations.students.values())


@pytest.mark.slow
def test_the_largest_budget_is_that_of_appendix_j():
    given, short = parameters(LONG), parameters("pythia_6_9b")
    assert given.searched == [("pythia_1b", "paper_coarse_layerwise"), ("pythia_2_8b", "paper_coarse_uniform")]
    assert given.trained == given.searched
    large = given.conditions_by_bin["pythia_2_8b"].schedule
    assert (large.num_steps, large.num_warmup_steps, large.peak_learning_rate) == (46_239, 238, 1.6e-4)
    assert large.num_tokens == pytest.approx(100e9, rel=1e-4)
    assert (given.teacher, given.search, given.arms) == (short.teacher, short.search, short.arms)


@pytest.mark.slow
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
    assert "Everything fits." in page
    assert page.count("`ablation_") == 5 * 3


@pytest.mark.slow
def test_the_largest_budget_is_planned_without_a_download(tmp_path):
    given = parameters(LONG)
    wide = given.plan.model_copy(update={"disk_gb": 1e6})
    _, page = plan_study(given.model_copy(update={"plan": wide}), tmp_path)
    assert "2 searches and 8 training runs" in page
    assert "Everything fits." in page


@pytest.mark.slow
def test_the_studies_differ_in_their_teacher_and_what_fits_beside_it():
    one, other = (parameters(name).model_dump() for name in STUDIES)
    for given in (one, other):
        del given["teacher"], given["bins"]["pythia_1b"]["arms"]
        del given["ablations"]["teachers"], given["ablations"]["students"]["pythia_410m"]
    assert one == other


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the data and the output of the study of Pythia-6.9B on a tiny teacher.

    `test_ablations` runs all ablations.
    """
    project = tmp_path_factory.mktemp("ran") / "project"
    return run_in_small("pythia_6_9b", GRID, project, "--pipelines=__default__,ablation_logits")


def run_in_small(environment: str, changes: str, project: Path, *arguments: str) -> tuple[Path, str]:
    copy_project(project)
    file = project / f"conf/{environment}/parameters.yml"
    small = map(OmegaConf.create, (TINY, changes))
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), *small), file)
    done = kedro(project, "run", f"--env={environment}", *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return project / f"data/{environment}", output


def empty_figures(data: Path, *, missing: frozenset[str] = frozenset()) -> set[str]:
    """Return the figures that show nothing, after a look that all but some are there."""
    drawn = {file.stem: json.loads(file.read_text()) for file in (data / "08_reporting/figures").glob("*.json")}
    assert set(drawn) == {figure.name for figure in FIGURES} - missing
    return {name for name, each in drawn.items() if each["layout"].get("meta", {}).get("reason")}


@pytest.mark.slow
@pytest.mark.parametrize("environment", OTHERS)
def test_the_other_studies_run_to_their_report(environment, tmp_path):
    """They have the parameters of the first but for their teacher, what fits beside it, and budgets."""
    data, _ = run_in_small(environment, OTHERS[environment], tmp_path / "project")
    results = pd.read_parquet(data / "08_reporting/results.parquet")
    assert results["loss"].notna().all()
    given = parameters(environment)
    trained = set(results["bin"]) - {""}
    assert trained == ({"pythia_410m"} if given.ablations else set(given.grid))
    of_probes = frozenset() if given.has_probes else frozenset({"probe_losses", "probe_perplexity"})
    assert empty_figures(data, missing=of_probes) == set()


@pytest.mark.slow
def test_every_bin_is_trained_as_its_tables_say(ran):
    data, output = ran
    assert "4 searches, 4 probes and 12 training runs" in output
    arms = read_records(data / "07_model_output/arms.json")
    rates = {(arm.bin, arm.learning_rate) for arm in arms}
    assert rates == {("pythia_410m", 3e-4), ("pythia_1b", 3e-4), ("pythia_2_8b", 1.6e-4)}
    warmups = {(arm.bin, arm.made_with.schedule["warmup_steps"]) for arm in arms}
    assert warmups == {("pythia_410m", 0), ("pythia_1b", 0), ("pythia_2_8b", 1)}
    assert {arm.tokens_per_sequence for arm in arms} == {32}
    certificates = pd.read_parquet(data / "07_model_output/certificates.parquet")
    assert len(certificates) == 4
    assert (certificates["largest_logit_difference"] <= 1e-4).all()


@pytest.mark.slow
def test_savings_charge_what_other_spaces_and_probes_cost(ran):
    """The teacher keeps its own order, for which nothing is measured."""
    data, _ = ran
    savings = pd.read_parquet(data / "08_reporting/savings.parquet")
    assert set(savings["baseline"]) == {"random_init", "reference_init"}
    of_subnets = savings[(savings["baseline"] == "random_init") & (savings["arm"] != "reference_init")]
    assert len(of_subnets) == 2 * 3
    ledger = pd.DataFrame([cost.model_dump() for cost in read_records(data / "07_model_output/ledger.json")])
    assert ledger.loc[ledger["stage"].isin(["calibration", "elimination"]), "flops"].sum() == 0
    two_spaces = of_subnets["bin"] == "pythia_410m"
    more = of_subnets["selection_flops"] / of_subnets["search_flops"]
    assert more[two_spaces].min() > 1


@pytest.mark.slow
def test_every_figure_and_table_of_the_paper_is_drawn(ran):
    data, _ = ran
    assert empty_figures(data) <= {"savings_by_ledger"}  # no arm may have met the other
    for name in ("results", "savings", "tasks"):
        assert len(pd.read_parquet(data / f"08_reporting/{name}.parquet"))
    assert len(pd.read_csv(data / "04_feature/search_spaces.csv")) == 4


@pytest.mark.slow
def test_ablations_of_two_bins_are_drawn_side_by_side(ran):
    data, _ = ran
    found = {}
    for name in ("pythia_410m", "pythia_1b"):
        table = pd.read_parquet(data / f"08_reporting/ablations/{name}/logits.parquet")
        assert table["variant"].tolist() == ["top_1024", "all"]
        assert set(table["tokens"]) == {256}
        assert table["loss"].notna().all()
        (found[name],) = set(table["num_parameters"])
        for end in ("", "_curves"):
            drawn = json.loads((data / f"08_reporting/ablations/{name}/logits{end}.json").read_text())
            assert drawn["data"], name
    assert found["pythia_410m"] < found["pythia_1b"]
    facts = data.glob("02_intermediate/workspace/training-*/facts.json")
    arms = {json.loads(file.read_text())["arm"] for file in facts}
    assert {"logits top_1024", "logits all"} <= arms, "a place among the others would decide what is trained again"


@pytest.mark.slow
def test_what_candidates_keep_is_read_one_at_a_time(ran):
    data, _ = ran
    folder = data / "05_model_input/pythia_2_8b/paper_fine_uniform"
    history, genes = pd.read_parquet(folder / "history.parquet"), Genes.open(folder / "genes")
    for row in history.to_dict("records"):
        selection = genes.read(row["evaluation"])
        assert canonical_key(selection) == row["key"]
        assert len(selection.layers) == row["num_hidden_layers"]
    assert "genes" not in history
    assert "sequence_losses" not in pd.read_parquet(data / "07_model_output/histories.parquet")
