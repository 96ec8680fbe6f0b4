"""Every command of the documentation runs on the smoke study, or in another test, or is on a list with the reason."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from players import Played, Step, play
from projects import ROOT, copy_finished, environment
from shown import blocks, commands

VENV = Path(sys.prefix)
MODELS = "data/06_models/half/coarse_uniform"

SUBSTITUTIONS = (
    # A minute of the tiny teacher in place of hours of others.
    (r"^make run$", "make run ENV=smoke"),
    (r"^make run ARGS", "make run ENV=smoke ARGS"),
    # Where the environment is installed already, PYTHON is not used.
    (r"^make PYTHON=\S+ run$", f"make PYTHON={sys.executable} run ENV=smoke"),
    (r"^(\.venv/bin/)?kedro run(?! --env)", "KEDRO_ENV=smoke kedro run"),
    (r"ENV=(mine|slurm)", "ENV=smoke"),
    (r"ENV=pythia_6_9b (?!.*=plan)", "ENV=protocol "),
    # One training of three: each of its processes imports torch anew.
    (r"ENV=gpus$", "ENV=gpus ARGS=--nodes=subnets.half.coarse_uniform.train_random_init"),
    (r"schedule.tokens=100000", "schedule.tokens=1024"),
    (r"search.epochs=5", "search.epochs=2"),
    (r"study.prune data$", "study.prune data/smoke"),
    (r"study.prune my-study", "study.prune data/smoke/02_intermediate/workspace"),
    (r"^make prune(?! DATA)", "make prune DATA=data/smoke"),
    # What a scheduler would run, here.
    (r"^sbatch .*'export HEAD=.*; (make .*)'$", r"\1"),
    (r"^sky launch .* -- (make .*)$", r"\1"),
    # Placeholders.
    (r"=(MODEL|product) ", f"={MODELS}/distilled "),
    (r",hellaswag", ""),  # from the hub
    (r"COMMIT", "HEAD"),
    # One quick module instead of all tests.
    (r"^make test(.*) ARGS='(?:tests/search )?(.*)'$", r"make test\1 ARGS='\2 MODULE'"),
    (r"^make test ARGS=--(\S*)$", r"make test ARGS='--\1 MODULE'"),
    (r"^make test$", "make test ARGS='MODULE'"),
    (r"MODULE", "-n0 -W ignore::pytest.PytestAssertRewriteWarning tests/arch/test_bytes.py"),
)
"""What is put in place of what a command shows, in this order."""

ELSEWHERE = {
    r"make viz( ENV=smoke)?": "test_pages.py::test_the_graph_unfolds_and_shows_a_figure",
    r"make mlflow( ARGS=.*)?": "test_pages.py::test_the_tracker_leads_to_the_curves_of_a_training",
    r"kedro run --env=smoke": "conftest.py::finished",
    r"make docs": "test_site.py::test_the_site_opens_and_searches_from_a_folder",
    r"(\S*/)?python certificate_check.py vllm": "serving/test_engines.py::test_vllm_agrees_within_a_thousandth",
    r"NODE_FOLDER=\S+ python certificate_check.py llama.cpp": (
        "serving/test_engines.py::test_llama_cpp_agrees_at_every_position"
    ),
    r"VLLM_CPU_KVCACHE_SPACE=1 \S+python -m vllm.*": "serving/test_shown.py::test_the_server_of_vllm_answers",
    r"torchrun .* -m budwood.training job.json": (
        "training/test_launch.py::test_so_does_a_launcher_whose_killed_process_restarts"
    ),
    r"python -m budwood --conf-source=.*": "test_wheel.py::test_it_runs_a_variant_of_the_smoke_study_where_nothing_is",
    r"python benchmarks/gpu.py": "test_benchmarks.py::test_an_accelerator_is_measured_in_small",
    r"python .ci/release.py v0.2.0": "test_release.py::test_the_version_is_the_same_everywhere",
}
"""Commands that another test runs, on its own small data."""

NOT_RUN = {
    r"make check": "takes a minute and 2 GB; `.ci/run` and every commit run it",
    r"make (install|lock|engines)": "asks package indices; other targets install first, `.ci/run` installs engines",
    r"source .venv/bin/activate": "changes the shell in which it is typed",
    r"pip install 'budwood\[ray\]'": "asks a package index",
    r"kedro package": "asks a package index for what builds; test_wheel.py builds the same wheel without",
    r"hf (auth login|upload.*)": "asks the hub",
    r"make run ENV=gemma3_270m": "needs packages of 240 MB and 9 GB of memory; test_gemma.py validates what it runs",
    r"(\.venv/bin/python )?(benchmarks/)?\w+\.py --.*": "takes hours; test_benchmarks.py runs most in small",
    r"vllm serve .*": "vLLM's CPU build has no such command; serving/test_shown.py parses its options as vLLM does",
    r"llama-(server|quantize) .*": "comes with llama.cpp's own build, which `make engines` does not install",
}
"""Commands that no test can run, and why."""

CHANGES = {
    "smoke": """
        grid: {half: [coarse_uniform], quarter: null}
        push: {repository: "owner/{bin}-{space}", model: distilled}
        evaluation: {efficiency: null}
        """,
    "protocol": "protocol: {probe_tokens: 1024}",
    "ablations": """
        ablations:
          {tokens: 768, students: {half: coarse_uniform}, spaces: [coarse_uniform, fine_layerwise],
           metrics: [perplexity],
           logits: {all: {loss: full}, top: {top_k: 16}},
           teachers: {whole: {}, part: {subnet: {bin: half, space: coarse_uniform}}}}
        """,
    # The launcher's `auto` is as many processes as there are cores, whose number must divide the batch.
    "gpus": "{engine: {compile: false, launcher: torchrun --nproc-per-node 1}, measurement: {device: cpu}}",
}
"""What the environments change of the smoke environment; that of several GPUs also has what its page shows."""

MODULES = {
    "kedro": "kedro",
    ".venv/bin/kedro": "kedro",
    "lm_eval": "lm_eval",
    "pytest": "pytest",
    ".venv/bin/pre-commit": "pre_commit",
}
"""Where the programs are that Python's packages bring. One that is missing here, and on no list, fails the tests."""
CLEANING = ("clean", "clean-all")
"""Targets that make runs itself."""
LAST = ("ARGS=--yes", *CLEANING)
"""Ends of the commands that remove what others reuse, in the order in which they run after all else."""


def in_small(command: str) -> str:
    """Return a command with everything substituted."""
    for pattern, replacement in SUBSTITUTIONS:
        command = re.sub(pattern, replacement, command)
    return command


def matches(table: dict[str, str], command: str) -> str | None:
    """Return what a table says of a command."""
    found = [said for pattern, said in table.items() if re.fullmatch(pattern, command)]
    assert len(found) <= 1, command
    return found[0] if found else None


RUN = sorted({command for command in commands() if not matches({**ELSEWHERE, **NOT_RUN}, command)})
PLAYED = sorted(
    {in_small(command) for command in RUN},
    key=lambda command: ([command.endswith(end) for end in reversed(LAST)], command),
)


def steps_of(command: str, project: Path) -> list[Step]:
    """Return what a command runs: of make, the commands of the recipe."""
    words = shlex.split(command)
    assigned = list(takewhile(re.compile(r"[A-Z_]+=").match, words))
    program, *arguments = words[len(assigned) :]
    if program == "make" and arguments[0] not in CLEANING:
        return [step for line in _recipe(arguments, project) for step in steps_of(line, project)]
    folder = project / MODELS / "subnet" if "certificate_check.py" in arguments else project
    # What only names a command in a message makes no other run.
    variables = tuple(tuple(word.split("=", 1)) for word in assigned if not word.startswith("BUDWOOD_MAKE="))
    return [Step(_without_starting(program, arguments), str(folder), variables)]


def _without_starting(program: str, arguments: list[str]) -> tuple[str, ...]:
    """Return a command, so that one in Python needs no process of its own."""
    match program, arguments:
        case "python", ["-m", *_]:
            return tuple(arguments)
        case "python", [script, *rest]:
            run = f"import runpy, sys; sys.argv[0] = {script!r}; runpy.run_path({script!r}, run_name='__main__')"
            return ("-c", run, *rest)
        case ("make", _):
            return ("make", *arguments, "VENV=.venv")  # which `clean-all` removes
        case (("ruff" | "git"), _):
            return (program, *arguments)
    assert program in MODULES, f"{program} {' '.join(arguments)}: say where it is in MODULES, or why not in NOT_RUN"
    return ("-m", MODULES[program], *arguments)


def without_make(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `make test ARGS=...` would give to every make below it, and without VENV."""
    return {
        name: value
        for name, value in variables.items()
        if name not in {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VENV"}
    }


def _recipe(arguments: list[str], project: Path) -> list[str]:
    """Return the lines that make would run where the environment is installed: where the tests run."""
    make = ["make", "--dry-run", f"--file={ROOT / 'Makefile'}", f"--old-file={VENV / '.installed'}", f"VENV={VENV}"]
    own = without_make(os.environ)
    shown = subprocess.run([*make, *arguments], cwd=project, env=own, capture_output=True, text=True, check=True).stdout
    lines = shown.replace("\\\n", "").splitlines()
    return [line.partition(':$PATH" ')[2] for line in lines]


def _write_environments(project: Path) -> None:
    """Make every environment one of the smoke environment, with one variant and its finished stages."""
    shown = {
        name: OmegaConf.create(block.text)
        for block in blocks("yaml")
        for name in re.findall(r"^# conf/(\w+)/parameters.yml", block.text)
    }
    for name, changes in CHANGES.items():
        folder = project / "conf" / name
        file = folder / "parameters.yml"
        before = OmegaConf.load(file) if name == "smoke" else shown.get(name, OmegaConf.create())
        folder.mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.merge(before, OmegaConf.create(yaml.safe_load(changes))), file)
        if name != "smoke":
            (folder / "globals.yml").write_text("extends: smoke\ndata: data/smoke\n")


def _write_job(project: Path) -> None:
    """Write a job of eight steps."""
    data = project / "data/smoke"
    schedule = {"tokens": 1024, "sequence_length": 64, "global_batch": 2, "micro_batch": 2, "peak_learning_rate": 1e-3}
    job = {
        "arm": "subnet_init",
        "model_folder": str(project / MODELS / "subnet"),
        "initialisation": "checkpoint",
        "teacher_folder": str(data / "03_primary/teacher"),
        "corpus_folder": str(data / "03_primary/tokens"),
        "output_folder": str(project / "trained"),
        "learning_rate": 1e-3,
        "schedule": schedule,
        "heldout_windows": 1,
        "engine": {"compile_loss": "off"},
    }
    (project / "job.json").write_text(json.dumps(job))


@pytest.fixture(scope="module")
def played(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Played]]:
    """Return how every command ended in a copy of the finished study."""
    project = copy_finished(finished, tmp_path_factory.mktemp("played") / "project")
    for name in ("docs", "notebooks", "tests"):
        shutil.copytree(ROOT / name, project / name)
    for name in (".gitignore", "Makefile"):
        shutil.copy(ROOT / name, project)
    for name in ("04_feature", "06_models"):
        (project / "data" / name).symlink_to(project / "data/smoke" / name)
    _write_environments(project)
    _write_job(project)
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    for arguments in (["init", "--quiet"], [*author, "commit", "--quiet", "--allow-empty", "--message=One"]):
        subprocess.run(["git", *arguments], cwd=project, check=True)
    steps = {command: steps_of(command, project) for command in PLAYED}
    own = without_make(environment(project))
    ends = play([step for each in steps.values() for step in each], project, own, timeout=1800)
    assert not (project / "data/smoke").exists()  # cleaned
    return {command: [ends[step] for step in each] for command, each in steps.items()}


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN, ids=lambda command: command[:70])
def test_a_command_runs_as_shown(command, played):
    for end in played[in_small(command)]:
        assert end.status == 0, end.output[-4000:]


def test_a_recipe_is_the_same_below_another_make(monkeypatch):
    alone = _recipe(["test"], ROOT)
    monkeypatch.setenv("MAKELEVEL", "1")
    monkeypatch.setenv("MAKEFLAGS", "w -- ARGS=-q")
    assert _recipe(["test"], ROOT) == alone
    assert all(alone)


@pytest.mark.parametrize("table", [ELSEWHERE, NOT_RUN], ids=["elsewhere", "not run"])
def test_no_list_has_what_no_page_shows(table):
    unused = [pattern for pattern in table if not any(re.fullmatch(pattern, command) for command in commands())]
    assert not unused


def test_every_substitution_is_made():
    made = set()
    for command in RUN:
        small = command
        for pattern, replacement in SUBSTITUTIONS:
            small, count = re.subn(pattern, replacement, small)
            made |= {pattern} if count else set()
    assert made == {pattern for pattern, _ in SUBSTITUTIONS}


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_other_tests_are_there(test):
    file, _, name = test.partition("::")
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text()


def test_what_is_not_run_has_arguments_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    steps = (ROOT / ".ci/run").read_text()
    for command in (command for command in commands() if matches(NOT_RUN, command)):
        program, *arguments = shlex.split(command.removeprefix(".venv/bin/python "))
        match program, arguments:
            case "make", ["check" | "engines" as target]:
                assert f"\nmake {target} " in steps
            case "pip", ["install", requirement]:
                assert requirement.partition("[")[2].removesuffix("]") in project["optional-dependencies"]
            case script, _ if script.endswith(".py"):
                source = (ROOT / "benchmarks" / Path(script).name).read_text()
                assert not [word for word in arguments if word.startswith("--") and f'"{word}"' not in source]
