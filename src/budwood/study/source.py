"""The source that a stage runs, as a hash: changed code never answers from old results."""

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy", "scipy", "scikit-learn")
"""Libraries whose versions can change a result."""
_PACKAGE = __name__.partition(".")[0]


@cache
def code_hash(module: str) -> str:
    """Return a hash of a module and of all modules of its package that it imports, directly or not.

    Comments, docstrings and layout do not count; the versions of `LIBRARIES` and of Python do.

    Args:
        module: its dotted name; it belongs to budwood, or to the user.
    """
    digest = hashlib.sha256()
    for name, file in sorted(_closure(module).items()):
        digest.update(f"{name} {_hash_of(file)}\n".encode())
    versions = [f"{library} {importlib.metadata.version(library)}" for library in LIBRARIES]
    digest.update("\n".join([*versions, f"python {sys.version_info.major}.{sys.version_info.minor}"]).encode())
    return digest.hexdigest()[:16]


def _closure(module: str) -> dict[str, Path]:
    """Return the files of a module and of what it imports from its own package, by dotted name."""
    package = module.partition(".")[0]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = None if name in found else _file_of(name)
        if file is not None:
            found[name] = file
            waiting += [each for each in _imports(file) if each.partition(".")[0] == package]
    return found


def _file_of(name: str) -> Path | None:
    """Return the file of a module; nothing for a name that is no module, such as that of a function."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # a parent of the name is a module and no package
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


@cache
def _imports(file: Path) -> tuple[str, ...]:
    """Return all that a file may import, at whatever depth the statement is."""
    return tuple(_imported(ast.parse(file.read_bytes())))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _hash_of(file: Path) -> str:
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # Docstrings, and those of attributes.
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
