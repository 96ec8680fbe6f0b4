"""Serving engines, each in an environment of its own, asked whether they open exports and answer as they should.

`tests/serving/install_engines.sh FOLDER` makes such a folder of environments.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from budwood.arch.servable import vllm_takes
from budwood.models.certificate_check import misreading_of_vllm
from budwood.models.checkpoint import read_architecture
from budwood.models.export import CERTIFICATE
from budwood.models.gguf_export import choose_form, least_version, write_gguf
from budwood.models.kind import read_config
from budwood.models.settings import ServingSettings
from budwood.records.serving import CHECK, EngineName, Opening, OpensIn
from budwood.records.strict import Strict

GGUF = "model.gguf"
LLAMA_CPP = Path("llama") / "node_modules" / "node-llama-cpp"
_ERROR_LENGTH = 200


class Answer(Strict):
    """What `certificate_check.py` prints about one folder."""

    folder: str
    engine: EngineName
    agrees: bool
    largest_difference: float | None = None
    """Of any log-probability, in nats."""
    mean_difference: float | None = None
    """Of all of them."""
    rounded: bool = False
    """Whether the weights have fewer bits than float32, so that the mean was judged."""
    num_tokens: int = 0
    error: str | None = None


def is_installed(engine: EngineName, home: Path) -> bool:
    """Whether a folder of environments has an engine."""
    if engine == "llama.cpp":
        return shutil.which("node") is not None and (home / LLAMA_CPP).is_dir()
    return engine == "transformers" or python_of(home).is_file()


def python_of(home: Path) -> Path:
    """Return the interpreter of vLLM's environment."""
    return home / "vllm" / "bin" / "python"


def ask(engine: EngineName, folders: Sequence[Path], home: Path) -> dict[Path, Answer]:
    """Return what an engine answers for every folder; they are opened in turn by one process.

    Args:
        engine: to be asked.
        folders: exports with recorded prompts; llama.cpp reads `model.gguf` there.
        home: folder of environments.

    Raises:
        ValueError: the engine is not installed there, or died.
    """
    if not is_installed(engine, home):
        raise ValueError(f"engines: {engine} is not installed in {home}; `make engines` installs it")
    python = str(python_of(home)) if engine == "vllm" else sys.executable
    # The engine brings a transformers of its own.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "NODE_FOLDER": str(home / "llama")}
    with as_file(files("budwood.models").joinpath(CHECK)) as script:
        command = [python, "-I", str(script), engine, *map(str, folders)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"folder"')]
    if len(lines) != len(folders):
        raise ValueError(f"{engine} ended without an answer: {done.stderr.strip()[-_ERROR_LENGTH:]}")
    return dict(zip(folders, map(Answer.model_validate_json, lines), strict=True))


def open_everywhere(folder: Path, settings: ServingSettings) -> OpensIn:
    """Write an export in the forms that are asked for, and try it in the engines at hand."""
    return {
        "transformers": Opening(opens=True, how=f"`{CERTIFICATE}`: loaded again, it computes the same"),
        "vllm": _tried("vllm", folder, settings.engines) or _judge_vllm(folder),
        "llama.cpp": _open_in_llama_cpp(folder, settings),
    }


def _open_in_llama_cpp(folder: Path, settings: ServingSettings) -> Opening:
    try:
        versions = _versions(folder)
        form = f"llama.cpp's {choose_form(folder)}{versions}"
        if settings.gguf is not None:
            write_gguf(folder, folder / GGUF, settings.gguf)
    except ValueError as error:
        return Opening(opens=False, how=str(error))
    if settings.gguf is None:
        return Opening(opens=None, how=f"`serving: {{gguf: f16}}` writes it in the form of {form}")
    tried = _tried("llama.cpp", folder, settings.engines)
    if tried is None:
        return Opening(opens=None, how=f"`{GGUF}` says what the checkpoint says, in the form of {form}")
    return tried.model_copy(update={"how": tried.how + versions})


def serving_commands(folder: Path, opens_in: OpensIn) -> list[str]:
    """Return what serves a folder in engines that open it or were not tried, with the options that they need."""
    lines = []
    if "vllm" in opens_in and opens_in["vllm"].opens is not False:
        config = read_config(folder)
        code = " --trust-remote-code" * ("auto_map" in config)
        backend = " --model-impl transformers" * (misreading_of_vllm(config) is not None)
        lines.append(f"vllm serve .{code}{backend}")
    if "llama.cpp" in opens_in and opens_in["llama.cpp"].opens is not False and (folder / GGUF).is_file():
        lines.append(f"llama-server --model {GGUF}")
    return lines


def _versions(folder: Path) -> str:
    least = least_version(folder)
    if least is None:
        return ""
    return f"; older versions than {least} overlook which layers have a window, and compute something else"


def _judge_vllm(folder: Path) -> Opening:
    """Return what is known without trying."""
    head_dims = {layer.head_dim for layer in read_architecture(folder).layers}
    odd = sorted(dim for dim in head_dims if not vllm_takes(dim))
    if odd:
        sizes = ", ".join(map(str, odd))
        return Opening(opens=None, how=f"its CPU kernels take no heads of {sizes}{_warning(folder)}")
    return Opening(opens=None, how="its kernels take heads of these dimensions" + _warning(folder))


def _warning(folder: Path) -> str:
    reason = misreading_of_vllm(read_config(folder))
    if reason is None:
        return ""
    return f"; only with `--model-impl transformers`: {reason}, and computes something else without an error"


def _tried(engine: EngineName, folder: Path, home: Path | None) -> Opening | None:
    """Return what an engine makes of a folder; None where it is not installed."""
    if home is None or not is_installed(engine, home):
        return None
    try:
        answer = ask(engine, [folder], home)[folder]
    except ValueError as error:
        return Opening(opens=False, how=str(error))
    if answer.error is not None:
        return Opening(opens=False, how=answer.error.splitlines()[0][:_ERROR_LENGTH])
    tokens, difference = f"{answer.num_tokens} log-probabilities", f"{answer.largest_difference:.1e}"
    if not answer.agrees:
        return Opening(opens=False, how=f"it answers otherwise: {tokens} differ by up to {difference}")
    if answer.rounded:
        difference = f"{answer.mean_difference:.1e} in the mean and {difference} at most, with rounded weights"
    warning = _warning(folder) if engine == "vllm" else ""
    return Opening(opens=True, how=f"`python {CHECK} {engine}`: {tokens} agree within {difference}{warning}")


def engines_table(opens_in: Mapping[EngineName, Opening]) -> str:
    """Return a table of engines in Markdown."""
    rows = [f"| {engine} | {opening.word} | {opening.how} |" for engine, opening in opens_in.items()]
    return "\n".join(["| engine | opens | how that was checked, or why not |", "|---|---|---|", *rows])
