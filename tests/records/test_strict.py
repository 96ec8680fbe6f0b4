"""Which settings are facts."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from budwood.records.strict import HOW, Strict, facts


class Inner(Strict):
    depth: int = 2
    threads: Annotated[int, HOW] = 1


class Outer(Strict):
    folder: Path = Path("a/b")
    pair: tuple[int, float] = (1, 0.5)
    inner: Inner = Inner()
    listed: tuple[Inner, ...] = (Inner(), Inner(depth=3))
    named: dict[str, Inner]
    nothing: Inner | None = None
    workers: Annotated[int, HOW] = Field(default=1, ge=1)


def test_facts_are_json_without_what_only_says_how():
    assert facts(Outer(named={"x": Inner()})) == {
        "folder": "a/b",
        "pair": [1, 0.5],
        "inner": {"depth": 2},
        "listed": [{"depth": 2}, {"depth": 3}],
        "named": {"x": {"depth": 2}},
        "nothing": None,
    }


def test_facts_change_with_what_decides_and_with_nothing_else():
    assert facts(Outer(named={"x": Inner()}, workers=4, inner=Inner(threads=8))) == facts(Outer(named={"x": Inner()}))
    assert facts(Outer(named={"x": Inner()}, inner=Inner(depth=9))) != facts(Outer(named={"x": Inner()}))
