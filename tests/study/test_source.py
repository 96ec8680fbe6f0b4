"""Changed code never answers from old results."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import run_python
from projects import ROOT
from sources import forget, write_source

from budwood.study import source
from budwood.study.source import code_hash

FILES = {
    "made_up/__init__.py": "",
    "made_up/first.py": "from made_up import second\n\n\ndef answer():\n    return second.number() + 1\n",
    "made_up/second.py": (
        "def number():\n    from . import third\n    from .deeper.fourth import four\n\n    return third.THREE + four\n"
    ),
    "made_up/third.py": "import beside_it\nimport torch\n\nTHREE = 3 + beside_it.ZERO\n",
    "made_up/deeper/__init__.py": "",
    "made_up/deeper/fourth.py": "from ..fifth import FIVE\n\nfour = FIVE - 1\n",
    "made_up/fifth.py": "FIVE = 5\n",
    "made_up/apart.py": "import made_up.first\n",
    "beside_it.py": "ZERO = 0\n",
}
IMPORTED = ["first", "second", "third", "deeper.fourth", "fifth"]

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Yield what writes a file of a project in a new folder, long ago; the project is there."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, text: str) -> None:
        write_source(tmp_path / name, text)

    for name, text in FILES.items():
        put(name, text)
    yield put
    for name in [name for name in sys.modules if name.partition(".")[0] in {"made_up", "beside_it"}]:
        del sys.modules[name]
    forget()


@pytest.mark.parametrize("name", [*(f"made_up/{each.replace('.', '/')}.py" for each in IMPORTED), "beside_it.py"])
def test_a_change_anywhere_in_what_is_imported_changes_the_hash(write: Write, name: str) -> None:
    """Imports inside functions, relative ones, and modules beside the package count."""
    before = code_hash("made_up.first")
    write(name, FILES[name] + "\n\nMORE = 1\n")
    assert code_hash("made_up.first") != before
    write(name, FILES[name])
    assert code_hash("made_up.first") == before


def test_what_is_not_imported_does_not_count(write: Write) -> None:
    before = code_hash("made_up.first")
    write("made_up/apart.py", "import nothing_like_it\n")
    write("elsewhere.py", "X = 1\n")
    assert code_hash("made_up.first") == before


@pytest.mark.parametrize(
    "text",
    [
        '"""What it is."""\n' + FILES["made_up/fifth.py"],
        FILES["made_up/fifth.py"] + '"""Of the number."""\n',
        "# Five.\n\nFIVE   =   (5)  # a number\n",
    ],
)
def test_comments_docstrings_and_layout_do_not_count(write: Write, text: str) -> None:
    before = code_hash("made_up.first")
    write("made_up/fifth.py", text)
    assert code_hash("made_up.first") == before


def test_docstrings_of_functions_and_classes_do_not_count_and_other_texts_do(write: Write) -> None:
    def of(doc: str, value: str) -> str:
        write(
            "made_up/fifth.py",
            f"class Five:\n    def of(self):\n        {doc!r}\n        return {value!r}\n\n\nFIVE = 5\n",
        )
        return code_hash("made_up.first")

    assert of("One.", "five") == of("Other.", "five")
    assert of("One.", "five") != of("One.", "six")


def test_the_hash_is_the_same_in_every_process(write: Write, tmp_path: Path) -> None:
    """Python gives the texts of a set another order in every process."""
    write("made_up/fifth.py", "FIVE = 5 if 'a' in {'a', 'b', 'c', 'd', 'e', 'f'} else ('a' in {'g', 'h', 'i'}, 5)\n")
    script = "from budwood.study.source import code_hash; print(code_hash('made_up.first'))"
    paths = os.pathsep.join([str(ROOT / "src"), str(tmp_path)])
    for seed in ("1", "2", "3"):
        own = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=own)
        assert done.stdout.strip() == code_hash("made_up.first")


def test_a_block_of_nothing_but_text_counts_as_empty(write: Write) -> None:
    write("made_up/fifth.py", "FIVE = 5\n\n\ndef five():\n    'Return five.'\n")
    before = code_hash("made_up.first")
    write("made_up/fifth.py", "FIVE = 5\n\n\ndef five():\n    pass\n")
    assert code_hash("made_up.first") == before


def test_versions_of_libraries_count(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("made_up/fifth.py", FILES["made_up/fifth.py"])
    before = code_hash("made_up.first")
    monkeypatch.setattr(source.importlib.metadata, "version", lambda library: f"{library} 9")
    forget()
    assert code_hash("made_up.first") != before


def test_code_that_changes_while_a_process_runs_ends_it(write: Write, tmp_path: Path) -> None:
    """The process may run the old code, or import the new one later."""
    write("made_up/fifth.py", "FIVE = 6\n")
    (tmp_path / "made_up" / "fifth.py").touch()
    os.utime(tmp_path / "made_up" / "fifth.py", (source._BEGAN + 1, source._BEGAN + 1))
    with pytest.raises(ValueError, match=r"fifth\.py has changed since this process began: start again"):
        code_hash("made_up.first")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["training", "search", "evaluation"])
def test_nothing_that_a_stage_imports_is_left_out(module: str) -> None:
    """What Python itself has loaded after the import of a stage is among what was read."""
    script = (
        "import sys\n"
        "for name in [name for name in sys.modules if name.startswith('budwood')]: del sys.modules[name]\n"
        f"import budwood.study.{module}\n"
        "print(*(name for name, module in sys.modules.items()"
        " if name.startswith('budwood.') and not hasattr(module, '__path__')))"
    )
    done = run_python(["-c", script], ROOT, os.environ | {"PYTHONPATH": str(ROOT / "src")})
    loaded = set(done.stdout.split())
    assert len(loaded) > 20
    assert loaded <= set(source._closure(f"budwood.study.{module}"))


def test_wiring_and_reports_do_not_decide_what_is_trained() -> None:
    read = set(source._closure("budwood.study.training"))
    assert "budwood.training.losses" in read
    assert not {name for name in read if name.startswith(("budwood.pipelines", "budwood.reporting", "budwood.hooks"))}
