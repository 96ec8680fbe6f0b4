"""Programs to compare with, each installed as published into a virtual environment of its own.

Peers pin old releases of the libraries budwood uses, so a measurement of one is a script of its own: it runs under the
peer's Python and hands its numbers back as one line of JSON.
"""

import json
import platform
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CACHE_DIR = Path.home() / ".cache" / "budwood-benchmarks"
"""Folder of the environments, one each; outside the repository because they are large and outlive a checkout."""

WHITTLE_INSTALLS = (
    # What `import whittle` needs and no more: litgpt at whittle's own pin brings the rest, such as Lightning. Torch
    # stops where budwood's does, so that both sides run the same release.
    ("torch>=2.7,<2.14", "numpy", "litgpt==0.5.12"),
    # Without its own list of dependencies, which would make 154 packages of these 42: syne-tune, lm-eval, wandb,
    # bitsandbytes, boto3 and more, none of them imported to set, extract or run a sub-network.
    ("--no-deps", "whittle==0.6.0"),
)
"""Installs of whittle (<https://pypi.org/project/whittle>), super-network pruning on litgpt; 1.1 GB with torch."""

WHITTLE_SEARCH_INSTALLS = (*WHITTLE_INSTALLS, ("syne-tune[moo]==0.13.0",))
"""The same, and what `import whittle.search` needs as well."""
LITGPT_INSTALLS = (("torch==2.13.*", "numpy", "litgpt==0.5.12", "torchmetrics"),)
"""Install of litgpt (<https://pypi.org/project/litgpt>), whose `pretrain` budwood's training is measured with,
on the release of torch that budwood runs on."""
_TORCH = ("torch==2.13.*", "numpy", "safetensors")
CUT_INSTALLS = {
    # The newest transformers that the tool's example for language models was run with: under 5.24 the example does not
    # end, and above 4.48 its attention looks up other names.
    "torch-pruning": ((*_TORCH, "transformers==4.46.2", "torch-pruning==1.6.1"),),
    "optipfair": ((*_TORCH, "transformers==5.24.*", "optipfair==0.4.2"),),
    "mergekit": ((*_TORCH, "transformers==5.24.*", "mergekit==0.1.5"),),
}
"""Installs of tools that cut models, each with the rest of its own dependencies: torch-pruning
(<https://pypi.org/project/torch-pruning>), optipfair (<https://pypi.org/project/optipfair>) and mergekit
(<https://pypi.org/project/mergekit>)."""

_MARKER = "installed.json"
_NUM_TAIL_LINES = 20


def make_environment(name: str, installs: Sequence[Sequence[str]], cache_dir: Path = CACHE_DIR) -> Path:
    """Make a peer's virtual environment, or find the one that an earlier call made from the same installs.

    An environment made from other installs, by another Python, or only in part is made again from nothing.

    Args:
        name: The peer; names the folder below `cache_dir`.
        installs: Arguments of one `pip install` each, run in order.
        cache_dir: Where environments are kept.

    Returns:
        The environment's Python interpreter.

    Raises:
        RuntimeError: an installation failed; the message ends with the last lines of pip's output.
    """
    folder = cache_dir.expanduser().absolute() / name
    python = folder / "bin" / "python"
    marker = folder / _MARKER
    recipe = json.dumps({"python": platform.python_version(), "installs": installs})
    if python.exists() and marker.is_file() and marker.read_text(encoding="utf-8") == recipe:
        return python
    sys.stderr.write(f"installing {name} into {folder}\n")
    venv.create(folder, clear=True, with_pip=True)
    for arguments in installs:
        _pip_install(python, arguments)
    marker.write_text(recipe, encoding="utf-8")
    return python


def _pip_install(python: Path, arguments: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(  # noqa: S603 - requirements are constants of the benchmarks
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-_NUM_TAIL_LINES:])
        raise RuntimeError(f"pip install {' '.join(arguments)} failed with status {done.returncode}:\n{tail}")


def run_script(python: Path, script: Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Run a script under a peer's Python and read what it measured.

    Python's isolated mode keeps this repository, `PYTHONPATH` and the user's packages out of the peer. What the script
    writes to stderr is shown while it runs.

    Args:
        python: Interpreter that `make_environment` returned.
        script: Python file that closes its output with one line of JSON.
        arguments: The script's command line.

    Returns:
        The JSON object of the last line of stdout.

    Raises:
        RuntimeError: the script failed, or its last line is no JSON object.
    """
    done = subprocess.run(  # noqa: S603 - scripts are files of the benchmarks
        [str(python), "-I", str(script), *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script.name} failed with status {done.returncode}; its stderr is above")
    last_line = done.stdout.rstrip().rpartition("\n")[2]
    try:
        result = json.loads(last_line)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"{script.name} ended with {last_line!r} instead of a line of JSON") from error
    if not isinstance(result, dict):
        raise RuntimeError(f"{script.name} ended with {last_line!r} instead of a JSON object")  # noqa: TRY004 - not a type of the caller's
    return result
