"""Python processes that are forked from one that has imported the large libraries once.

What a process imports of budwood, of tests or of a project comes from its own `PYTHONPATH`; the server imports none.
A test that needs a new interpreter, as for another hash seed or for what is imported, starts a subprocess instead.
"""

import atexit
import gc
import inspect
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import NoReturn

LIBRARIES = (
    "accelerate",
    "alembic.command",
    "datasets",
    "dynaconf",
    "flask",
    "gguf",
    "git",
    "IPython",
    "joblib",
    "kedro.config",
    "kedro.io",
    "kedro.pipeline",
    "kedro_datasets.json",
    "kedro_datasets.pandas",
    "kedro_datasets.plotly",
    "kedro_datasets.text",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "lm_eval.tasks",
    "markdown_it",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.tracing.processor.otel",
    "pandas",
    "pathspec",
    "plotly.graph_objects",
    "plotly.io",
    "plotly.offline",
    "plotly.subplots",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pymoo.core.problem",
    "pytest",
    "rich.logging",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.ensemble",
    "sklearn.gaussian_process",
    "sqlalchemy.dialects.sqlite",
    "torch._dynamo",
    "torch.utils.data",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gemma2.modeling_gemma2",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.granite.modeling_granite",
    "transformers.models.llama.modeling_llama",
    "transformers.models.ministral3.modeling_ministral3",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.olmo2.modeling_olmo2",
    "transformers.models.olmo3.modeling_olmo3",
    "transformers.models.phi3.modeling_phi3",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.smollm3.modeling_smollm3",
    "transformers.models.stablelm.modeling_stablelm",
    "transformers.models.starcoder2.modeling_starcoder2",
    "transformers.trainer",
)
"""What the processes under test import. `kedro.framework` reads the environment on import, so it is left out."""

_STREAMS = ("stdout", "stderr")
_NO_FILES = ("<string>", "<frozen runpy>", "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
"""Where code is that no file has. Python looks for each through all modules, and Dynaconf twice through all frames."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(LIBRARIES))


class PythonProcess:
    """A forked process, as `subprocess.Popen` has it."""

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str], output: Path | None) -> None:
        """Start `python <arguments>` in a folder.

        Args:
            arguments: `-c` or `-m`, and what follows.
            folder: in which it starts.
            environment: all of its variables.
            output: the folder for the files `stdout` and `stderr`; without one, what it writes is lost.
        """
        self._process: ForkServerProcess = _forks.Process(
            target=_become, args=(arguments, folder, dict(environment), output), name=" ".join(arguments)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process itself."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs; negative where a signal ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            TimeoutExpired: it ran longer than this many seconds, and was killed.
        """
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()


def start_python(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> PythonProcess:
    """Start `python <arguments>` and return at once."""
    return PythonProcess(arguments, folder, environment, None)


def run_python(
    arguments: list[str], folder: Path, environment: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python <arguments>` to its end."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        status = PythonProcess(arguments, folder, environment, output).wait(timeout)
        said = ((output / stream).read_text() if (output / stream).exists() else "" for stream in _STREAMS)
        return subprocess.CompletedProcess(arguments, status, *said)


def _become(arguments: list[str], folder: Path, environment: dict[str, str], output: Path | None) -> None:
    """Become the process that a command starts."""
    gc.freeze()  # what is imported is left out of every collection
    for number, name in enumerate(_STREAMS, 1):
        file = os.devnull if output is None else output / name
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    become(arguments, folder, environment)


def become(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> NoReturn:
    """Do what `python <arguments>` does in a folder and with variables of its own, and end as it does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [str(folder), *own, *installed]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inspect.modulesbyfile.update(dict.fromkeys(_NO_FILES, ""))
    status = 1
    try:
        execute(arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code)
    except BaseException as error:  # noqa: BLE001 - as an interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def execute(arguments: list[str]) -> None:
    """Do in this process what `python <arguments>` does, given `-c` or `-m`, and what follows."""
    kind, code, *rest = arguments
    sys.argv = [kind if kind == "-c" else code, *rest]
    if kind == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = ModuleType("__main__")  # from which a script may import what it defines
        exec(compile(code, "<string>", "exec"), main.__dict__)  # noqa: S102 - our own tests
