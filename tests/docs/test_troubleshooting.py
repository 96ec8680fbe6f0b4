"""The troubleshooting: each of its messages is one of the source, and each refusal of the source is among them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple, Self

import pytest
from projects import ROOT
from shown import messages

FOREIGN = {
    "Reading global config value for per-layer attribute",  # transformers
    "budwood needs Python 3.11 or newer",  # the Makefile
    "Input should be …",  # pydantic
    "should have at least …",
    "String should match pattern …",
    "Unrecognized configuration class",  # transformers, in an engine
    "Unsupported CPU attention configuration",  # vLLM
    "undecided",
    "address already in use",  # the server of MLflow
    "within the noise",
    "random_init",
    "KILLED",
}
"""What other programs say, or figures and tables show."""
UNLISTED = {
    "only a call in Python meets it, or a bug; no setting, file or machine leads there": {
        *("at least one index must be kept", "a range of indices must be a prefix", "indices must be at least 0"),
        *("is given more than once", "is out of range, the teacher has", "layer must be at least 0"),
        *("source=… is not in split", "source=… is not a folder", "must not lie inside source="),
        *(
            "values: empty",
            "numerators and denominators:",
            "denominators: must sum",
            "samples: empty",
            "x: … is unknown",
        ),
        *(
            "has no finite held-out loss at step 0",
            "ledger: the training of",
            "different numbers of held-out sequences",
        ),
        *("paired losses need the same sequences", "was scored on … sequences, the teacher on"),
        *("has no genes of a search", "has no candidate of this number", "crossover needs parents of equal depth"),
        *("the evaluation of candidates does not measure", "num_sequences: candidates were to read"),
        *("fitness=… adds up no scores", "sequences are to be read but", "normalisation must be softmax"),
        *("ordering: activation needs the importance", "layer_score: elimination needs an importance"),
        *("…=… must be one of …", "must be a share of the teacher's parameters up to 1"),
        *("timings must be of at least", "every timing needs seconds"),
    },
    "the setting's own bound refuses it first": {"deviations must be positive"},
    "it is the beginning or the end of another message": {
        *("bins.… in spaces.…: …", "teacher.random", "an object has two fields", "no JSON object"),
    },
}
"""Words of refusals that have no row, by the reason."""
KINDS = {"AttributeError", "KeyError", "TypeError"}
"""Errors that only wrong code in Python meets."""
PARTS = {"DamagedError", "EOFError"}
"""Errors whose text is the reason at the end of another message, `cannot be read as format=…`."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Refusal(NamedTuple):
    """A message of an exception, every value in it as an ellipsis."""

    place: str
    kind: str
    text: str


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the source, by its path."""
    files = sorted((ROOT / "src").rglob("*.py"))
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def spoken() -> set[str]:
    """Return all texts of the source but docstrings, every value in them as an ellipsis."""
    found = set()
    for module in modules().values():
        described = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
        for node in ast.walk(module):
            match node:
                case ast.JoinedStr(values=values):
                    found.add("".join(v.value if isinstance(v, ast.Constant) else "…" for v in values))
                case ast.Constant(value=str() as text) if id(node) not in described:
                    found.add(text)
    return found


class Row(NamedTuple):
    """A message of the page."""

    message: str
    longest: str
    """Its longest fixed words, which are found sooner than all of it."""
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, message: str) -> Self:
        parts = message.strip("…").split("…")
        return cls(message, max(parts, key=len), re.compile("[^\n]{0,300}?".join(map(re.escape, parts))))

    def is_in(self, text: str) -> bool:
        return self.longest in text and bool(self.pattern.search(text))


@cache
def functions() -> dict[str, list[Function]]:
    """Return all functions of the source, by their name."""
    found: dict[str, list[Function]] = {}
    for module in modules().values():
        for node in ast.walk(module):
            if isinstance(node, Function):
                found.setdefault(node.name, []).append(node)
    return found


def texts(node: ast.expr, scope: ast.AST) -> list[str]:
    """Return what an expression may say: through names of its function, and functions that return a text."""
    found: list[str] = []
    match node:
        case ast.Constant(value=str() as text):
            found = [text]
        case ast.JoinedStr(values=values):
            found = ["".join(parts) for parts in product(*(texts(value, scope) for value in values))]
        case ast.FormattedValue(value=ast.Name() as name):
            found = texts(name, scope)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            found = [a + b for a, b in product(texts(left, scope), texts(right, scope))]
        case ast.IfExp(body=body, orelse=orelse):
            found = texts(body, scope) + texts(orelse, scope)
        case ast.Name(id=name):
            given = [part.value for part in ast.walk(scope) if isinstance(part, ast.Assign) and _sets(part, name)]
            found = [text for value in given for text in texts(value, scope)]
        case ast.Call(func=ast.Name(id=name)):
            for each in functions().get(name, []):
                found += [text for part in ast.walk(each) if _returns(part) for text in texts(part.value, each)]
    return found or ["…"]


def _sets(part: ast.Assign, name: str) -> bool:
    """Whether a statement gives a name its value, and not one that goes back to it."""
    named = any(isinstance(target, ast.Name) and target.id == name for target in part.targets)
    return named and not any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(part.value))


def _returns(part: ast.AST) -> bool:
    return isinstance(part, ast.Return) and part.value is not None


def refusals() -> Iterator[Refusal]:
    """Yield every text with which an exception is made, or that is put in front of one of another library."""
    for path, module in modules().items():
        scopes = [node for node in ast.walk(module) if isinstance(node, Function)]
        for scope in scopes:
            for node in ast.walk(scope):
                match node:
                    case ast.Call(func=ast.Name(id=name), args=[text]) if name.endswith("Error"):
                        pass
                    case ast.Call(func=ast.Name(id=name), args=[_, text, *_]) if name == "OSError":
                        pass
                    case ast.Call(func=ast.Name(id="naming" as name), args=[text, _, *_]):
                        pass
                    case _:
                        continue
                for said in dict.fromkeys(texts(text, scope)):
                    yield Refusal(f"{path}:{node.lineno}", name, said)


@pytest.mark.slow
def test_every_message_of_the_troubleshooting_is_one():
    said = spoken() | {refusal.text for refusal in refusals()}
    rows = map(Row.of, messages() - FOREIGN)
    assert not [row.message for row in rows if not any(row.is_in(text) for text in said)]


@pytest.mark.slow
def test_every_refusal_has_a_row_or_a_reason():
    rows = list(map(Row.of, messages()))
    excused = {words for each in UNLISTED.values() for words in each}
    found = set(refusals())
    missing = {
        refusal
        for refusal in found
        if refusal.kind not in KINDS | PARTS
        and len(re.findall(r"[a-z]{2,}", refusal.text)) > 1  # others only give the place of what another one says
        and not any(row.is_in(refusal.text) for row in rows)
    }
    assert len(found) > 400
    assert not sorted(refusal for refusal in missing if not any(words in refusal.text for words in excused))
    assert excused == {words for words in excused if any(words in refusal.text for refusal in missing)}
