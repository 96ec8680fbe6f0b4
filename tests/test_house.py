"""Rules of the house that no linter knows."""

import ast
import collections
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import ROOT, raw_parameters

SOURCE = ROOT / "src" / "budwood"
LONGEST, MOST_PARAMETERS, LONGEST_FILE = 60, 8, 400
LONGEST_NODE = 15
UNTYPED = re.compile(r"\b[dD]ict\[str, Any\]|\bMapping\[str, Any\]")

ONE_MEANING = {"NODES", "create_pipeline", "fetch_teacher", "logger", "main"}
"""Names that several modules define and mean much the same by."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(file: Path) -> Iterator[Function]:
    """Yield all functions of a file, at whatever depth."""
    yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function))


def parameters(function: Function) -> list[ast.arg]:
    """Return what a caller gives."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    return [each for each in named if each.arg not in {"self", "cls"}]


FILES = sorted(SOURCE.rglob("*.py"))


def test_functions_are_short_and_take_few_parameters():
    assert len(FILES) > 150
    broken = []
    for file in FILES:
        for function in functions(file):
            length = (function.end_lineno or 0) - function.lineno + 1
            count = len(parameters(function))
            if length > LONGEST or count > MOST_PARAMETERS:
                place = file.relative_to(ROOT)
                broken.append(f"{place}:{function.lineno} {function.name}: {length} lines, {count} parameters")
    assert broken == []


@pytest.mark.slow
def test_only_one_module_puts_what_was_written_into_place():
    """`Path.replace` takes one argument, `str.replace` two."""
    calls = {
        str(file.relative_to(SOURCE))
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr == "replace" and len(node.args) == 1
    }
    assert calls == {"records/files.py"}


def test_files_are_short():
    lengths = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


READ = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *{"torch", "transformers", "datasets", "pyarrow"} & set(sys.modules))
sys.modules["budwood.parameters"].read_parameters(json.load(sys.stdin))
print("reading", *{"torch", "transformers", "datasets", "pyarrow"} & set(sys.modules))
"""


@pytest.mark.slow
def test_settings_and_parameters_import_no_large_library():
    settings = [f"budwood.{file.parent.name}.settings" for file in sorted(SOURCE.glob("*/settings.py"))]
    names = [*settings, "budwood.study.comparison", "budwood.parameters"]
    given = json.dumps(raw_parameters("ablations"))
    done = subprocess.run([sys.executable, "-c", READ, *names], input=given, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [*names, "reading", ""]
    assert len(settings) > 6


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(node, (*typing.get_args(Function), ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def test_no_public_name_has_two_meanings():
    places = collections.defaultdict(set)
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            for name in names_of(node):
                places[name].add(str(file.relative_to(SOURCE)))
    twice = {name for name, files in places.items() if len(files) > 1 and not name.startswith("_")}
    assert twice <= ONE_MEANING


@pytest.mark.parametrize("file", sorted(SOURCE.glob("pipelines/*/nodes.py")), ids=lambda file: file.parent.name)
def test_nodes_pass_typed_values(file: Path):
    for function in functions(file):
        if not function.name.startswith("_"):
            written = [ast.unparse(each.annotation) for each in parameters(function) if each.annotation]
            written.append(ast.unparse(function.returns) if function.returns else "")
            assert not [text for text in written if UNTYPED.search(text)], function.name


def test_nodes_are_wiring():
    lengths = {}
    for file in SOURCE.glob("pipelines/*/nodes.py"):
        named = "".join(each.read_text() for each in SOURCE.glob("pipelines/*/pipeline.py"))
        for function in functions(file):
            if f'"{function.name}"' in named:
                body = function.body[1:]  # without the docstring
                lengths[function.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    assert len(lengths) > 25
    assert {name: length for name, length in lengths.items() if length > LONGEST_NODE} == {}


def test_stages_take_and_give_typed_values():
    seen = 0
    for file in sorted((SOURCE / "study").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and any("Stage[" in ast.unparse(base) for base in node.bases):
                seen += 1
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
                untyped = [ast.unparse(part) for part in fields if UNTYPED.search(ast.unparse(part.annotation))]
                assert untyped == [], node.name
                runs = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "run"]
                assert not [run for run in runs if UNTYPED.search(ast.unparse(run.args) + ast.unparse(run.returns))]
    assert seen >= 11


def test_no_other_dict_or_path_crosses_a_stage():
    """What `CONTRIBUTING.md` allows: what nodes take, the fields of stages, and those of their results."""
    given = [each for file in SOURCE.glob("pipelines/*/nodes.py") for each in _taken_by_nodes(file)]
    given += [each for file in (SOURCE / "study").glob("*.py") for each in _fields_of_stages(file)]
    assert len(given) > 200
    bare = {(name, kind) for name, kind in given if re.search(r"\bPath\b|\b[dD]ict\b|\bMapping\b", kind)}
    questions = {("heldout_tasks", "Path"), ("folder", "Path")}
    dicts = {("importance", "dict[str, Tensor]"), ("reported", "Mapping[str, int]")}
    assert bare == {*dicts, ("workspace", "Path"), ("root", "Path"), *questions}


def _taken_by_nodes(file: Path) -> Iterator[tuple[str, str]]:
    public = (function for function in functions(file) if not function.name.startswith("_"))
    yield from ((each.arg, ast.unparse(each.annotation)) for own in public for each in own.args.args if each.annotation)


def _fields_of_stages(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        if any("Stage[" in base or base == "NamedTuple" for base in bases):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            yield from ((ast.unparse(part.target), ast.unparse(part.annotation)) for part in fields)


def defined(file: Path) -> Iterator[Function]:
    """Yield the public functions and methods of a file, without those inside functions."""
    module = ast.parse(file.read_text())
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in (*module.body, *(part for each in classes for part in each.body)):
        if isinstance(node, Function) and (not node.name.startswith("_") or node.name in {"__init__", "__call__"}):
            yield node


def own_parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a function does itself, without what functions inside it do."""
    for part in ast.iter_child_nodes(node):
        if not isinstance(part, Function | ast.Lambda | ast.ClassDef):
            yield part
            yield from own_parts(part)


@pytest.mark.slow
def test_docstrings_give_errors_and_shapes():
    """What raises says so, and what takes or returns a tensor gives a shape such as [B, T]."""
    silent, shapeless, raising, shaped = [], [], 0, 0
    for file in FILES:
        for function in defined(file):
            place = f"{file.relative_to(ROOT)}:{function.lineno} {function.name}"
            text = ast.get_docstring(function) or ""
            if any(isinstance(part, ast.Raise) and part.exc for part in own_parts(function)):
                raising += 1
                silent += [place] * ("Raises:" not in text)
            written = [ast.unparse(each.annotation) for each in parameters(function) if each.annotation]
            written.append(ast.unparse(function.returns) if function.returns else "")
            # A mapping names its tensors, of which each has its own shape.
            if any(re.search(r"\bTensor\b", text) and not re.search(r"(Mapping|dict)\[", text) for text in written):
                shaped += 1
                shapeless += [place] * (not re.search(r"\[[^\]]+\]", text))
    assert (silent, shapeless) == ([], [])
    assert raising > 130
    assert shaped > 40
