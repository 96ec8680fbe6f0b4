"""What a run that was stopped names as the command that continues it."""

import shlex
import sys

import pytest
from projects import ROOT

from budwood.hooks import _say_how_to_go_on


@pytest.mark.parametrize("called", ["/some where/kedro", "python -m kedro"])
def test_the_command_to_go_on_can_be_typed(monkeypatch, caplog, called):
    """Kedro's module calls itself by three words."""
    monkeypatch.setattr(sys, "argv", [called, "run", "--tags=a b"])
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    monkeypatch.delenv("BUDWOOD_MAKE", raising=False)
    _say_how_to_go_on()
    command = f"{called.rpartition('/')[2]} run '--tags=a b'"
    assert caplog.messages[-1].endswith(f"same command: {command}")
    monkeypatch.setenv("KEDRO_ENV", "mine")
    _say_how_to_go_on()
    assert caplog.messages[-1].endswith(f"same command: KEDRO_ENV=mine {command}"), "as a shell sets it"


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [([], []), (["--pipelines=plan"], ["ARGS=--pipelines=plan"]), (["--tags=a b"], ["ARGS='--tags=a b'"])],
)
def test_a_run_of_make_is_gone_on_with_by_make(monkeypatch, caplog, arguments, settings):
    """The shell in which `make run` was typed need not find `kedro`."""
    monkeypatch.setenv("BUDWOOD_MAKE", "1")
    monkeypatch.setenv("KEDRO_ENV", "mine")
    monkeypatch.setattr(sys, "argv", ["/some where/kedro", "run", *arguments])
    _say_how_to_go_on()
    typed = caplog.messages[-1].partition("same command: ")[2]
    assert shlex.split(typed) == ["make", "run", "ENV=mine", *settings]


def test_the_makefile_says_that_it_runs_kedro():
    recipe = (ROOT / "Makefile").read_text().partition("\nrun: ")[2].partition("\n\n")[0]
    assert "BUDWOOD_MAKE=1 kedro run $(ARGS)" in recipe
