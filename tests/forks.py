"""Forks Python processes from one that imports the large libraries and budwood once; started by `processes.forking`.

What a fork imports of tests or of a project comes from its own `PYTHONPATH`. So does its budwood, unless its files have
the sizes and times of the server's.
"""

import atexit
import gc
import inspect
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np

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
OWN = ("budwood.parameters", "budwood.study.study", "budwood.training.launch")
"""With what these import; the rest of budwood needs `kedro.framework`."""
_SOURCE = Path(__file__).resolve().parents[1] / "src/budwood"

_NO_FILES = ("<string>", "<frozen runpy>", "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
"""Where code is that no file has. Python looks for each through all modules, and Dynaconf twice through all frames."""
STREAMS = (0, 1, 2)
GONE = (EOFError, OSError)
"""What is raised where nobody is at the other end of a connection."""


def serve(listening: socket.socket) -> None:
    """Fork for whoever connects, until standard input ends. A fork ends with the connection that asked for it.

    A connection brings three streams, and then arguments, folder and variables. It receives the process id, and at the
    end the exit status, negative where a signal ended the fork; what it sends in between are numbers of signals.
    """
    ended, wake = socket.socketpair()
    wake.settimeout(0)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    forks: dict[int, Connection] = {}
    try:
        while STREAMS[0] not in (ready := wait([STREAMS[0], listening, ended, *forks.values()])):
            if ended in ready:
                ended.recv(4096)
                _report(forks)
            for pid, asked in list(forks.items()):
                if asked in ready:
                    _signal(pid, asked)
            if listening in ready:
                _fork(listening, forks)
    finally:
        for pid in forks:
            os.kill(pid, signal.SIGKILL)


def _report(forks: dict[int, Connection]) -> None:
    """Send on the exit statuses of those that have ended."""
    while forks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if asked := forks.pop(pid, None):
            with asked, suppress(*GONE):
                asked.send(os.waitstatus_to_exitcode(status))


def _signal(pid: int, asked: Connection) -> None:
    """Send the signal that is asked for; where nobody asks any more, the last one."""
    try:
        number = asked.recv()
    except GONE:
        number = signal.SIGKILL
    os.kill(pid, number)


def _fork(listening: socket.socket, forks: dict[int, Connection]) -> None:
    _import_libraries()
    opened, _ = listening.accept()
    _, streams, _, _ = socket.recv_fds(opened, 1, len(STREAMS))
    asked = Connection(opened.detach())
    with suppress(*GONE):
        arguments, folder, variables = asked.recv()
        pid = os.fork()
        if pid == 0:
            try:
                _leave_server((listening, asked, *forks.values()), streams)
                become(arguments, Path(folder), variables)
            except BaseException:  # noqa: BLE001 - a fork never goes on as the server
                traceback.print_exc()
            finally:
                os._exit(1)
        forks[pid] = asked
        asked.send(pid)
    for stream in streams:
        os.close(stream)


def _leave_server(connections: Iterable[socket.socket | Connection], streams: list[int]) -> None:
    """Undo in a fork what is the server's, and take its own streams."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for connection in connections:
        connection.close()
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    np.random.seed()  # noqa: NPY002 - what Python does with its own numbers after a fork


@cache
def _import_libraries() -> None:
    """Import all of `LIBRARIES` and `OWN`, and leave them out of every later garbage collection."""
    for library in LIBRARIES:
        with suppress(ImportError):  # who needs it will say so
            import_module(library)
    _imported()
    sys.path.insert(0, str(_SOURCE.parent))
    for module in OWN:
        import_module(module)
    source = import_module("budwood.study.source")
    for name in _imported():
        source._read(_SOURCE / name)  # every stage asks what it runs
    gc.collect()
    gc.freeze()


def become(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> NoReturn:
    """Do what `python <arguments>` does in a folder and with variables of its own, and end as it does."""
    os.environ.clear()
    os.environ.update(environment)
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [str(folder), *own, *installed]
    _forget_other_source()
    inspect.modulesbyfile.update(dict.fromkeys(_NO_FILES, ""))
    status = 1
    try:
        os.chdir(folder)
        execute(arguments)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code)
    except BaseException as error:  # noqa: BLE001 - as an interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        threading._shutdown()  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _forget_other_source() -> None:
    """Forget the server's budwood where an import would find other files, or none."""
    found = PathFinder.find_spec("budwood")
    if found is None or found.origin is None or _stamps(Path(found.origin).parent) != _imported():
        for name in [name for name in sys.modules if name.partition(".")[0] == "budwood"]:
            del sys.modules[name]


@cache
def _imported() -> dict[Path, tuple[int, int]]:
    """Return sizes and times of the server's budwood, from before it was imported."""
    return _stamps(_SOURCE)


def _stamps(package: Path) -> dict[Path, tuple[int, int]]:
    """Return sizes and times of the files of a package."""
    stats = {file.relative_to(package): file.stat() for file in package.rglob("*.py")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def execute(arguments: list[str]) -> None:
    """Do in this process what `python <arguments>` does, given `-c` or `-m`, and what follows."""
    kind, code, *rest = arguments
    sys.argv = [kind if kind == "-c" else code, *rest]
    if kind == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = ModuleType("__main__")  # from which a script may import what it defines
        exec(compile(code, "<string>", "exec"), main.__dict__)  # noqa: S102 - our own tests


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
