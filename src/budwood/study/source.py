"""The source that a stage runs, as a hash: changed code never answers from old results."""

import ast
import hashlib
import importlib.metadata
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy", "scipy", "scikit-learn")
"""Libraries whose versions can change a result."""
_BEGAN = time.time()
_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
"""Folders of modules that belong neither to budwood nor to the user, unless they are of the package itself."""
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of a statement with statements inside it."""
_RUN = (
    *("co_name", "co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable"),
)
"""What a code object does beside its constants; places in its file are left out."""


@cache
def code_hash(module: str) -> str:
    """Return a hash of a module and of all that it imports, directly or not, from its package or beside it.

    Comments, docstrings and layout do not count; the versions of `LIBRARIES` and of Python do.

    Args:
        module: its dotted name; it belongs to budwood, or to the user.

    Raises:
        ValueError: one of them has changed since this process began, which may run what it was before.
    """
    digest = hashlib.sha256()
    for name, file in sorted(_closure(module).items()):
        if file.stat().st_mtime > _BEGAN:
            raise ValueError(f"{file} has changed since this process began: start again, to run what it is now")
        digest.update(f"{name} {_read(file)[1]}\n".encode())
    digest.update(_versions().encode())
    return digest.hexdigest()[:16]


@cache
def _versions() -> str:
    """Return the versions of libraries and of Python, a line for each."""
    versions = [f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES]
    return "\n".join([*versions, f"python {sys.version_info.major}.{sys.version_info.minor}"])


def _closure(module: str) -> dict[str, Path]:
    """Return the files of a module and of what it imports from its package or beside it, by dotted name."""
    top = module.partition(".")[0]
    home = _home(top)
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name)
        if file is not None:
            found[name] = file
            waiting += [each for each in _imports(name, file) if _is_own(each.partition(".")[0], top, home)]
    return found


@cache
def _home(top: str) -> Path | None:
    """Return the folder that a top-level package or module is in."""
    file = _file_of(top)
    if file is None:
        return None
    return file.resolve().parents[1 if file.stem == "__init__" else 0]


def _is_own(other: str, top: str, home: Path | None) -> bool:
    """Whether a top-level module is this one, or in the same folder where neither is installed."""
    return other == top or (home is not None and home not in _INSTALLED and _home(other) == home)


@cache
def _file_of(name: str) -> Path | None:
    """Return the file of a module; nothing for a name that is no module, such as that of a function."""
    try:
        spec = find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a parent of the name is a module and no package; a module has no spec
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


@cache
def _imports(name: str, file: Path) -> tuple[str, ...]:
    """Return all that a module may import when it runs, at whatever depth the statement is."""
    package, found = name if file.stem == "__init__" else name.rpartition(".")[0], []
    for node in _read(file)[0]:
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package) if node.level else str(node.module)
            names = [module, *(f"{module}.{each}" for each in names)]
        found += names
    return tuple(found)


@cache
def _read(file: Path) -> tuple[list[ast.Import | ast.ImportFrom], str]:
    """Return the imports of a module, and a hash of what it runs."""
    content = file.read_bytes()
    if file.suffix != ".py":  # a compiled module
        return [], hashlib.sha256(content).hexdigest()
    tree = ast.parse(content)
    imports = [node for block in _blocks(tree) for node in block if isinstance(node, ast.Import | ast.ImportFrom)]
    code = compile(tree, "", "exec", dont_inherit=True, optimize=0)
    return imports, hashlib.sha256(repr(_plain(code)).encode()).hexdigest()


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """Yield all lists of statements, without docstrings and without what only type checkers read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.copy_location(ast.Pass(), node)]
        for name in _BLOCKS:
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                # Those of attributes, too.
                block[:] = [each for each in block if not _is_text(each)] or [ast.copy_location(ast.Pass(), block[0])]
                yield block
                waiting += block


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _plain(constant: object) -> object:
    """Return a constant without the places of its code in a file, and with sets in order."""
    if isinstance(constant, CodeType):
        return *(getattr(constant, name) for name in _RUN), *map(_plain, constant.co_consts)
    if isinstance(constant, tuple):
        return tuple(map(_plain, constant))
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
