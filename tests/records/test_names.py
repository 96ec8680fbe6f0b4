"""Names of bins, spaces, sources and teachers: what becomes a folder, a dataset and a metric is one word."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budwood.records.names import ARMS, REFERENCE, SELECTED, Variant, require_name, require_names, run_name

REFUSED = (
    *("tiny__half", "0.5b", "../../x", "~", "+", "a+b", "(", "(a)", ",", "a,b", "", " ", "a b", "-a", "a-", "_a"),
    *("a/b", "a\\b", "a.b", "a:b", "{a}", "a\n", "é", "a--b", "a-_b"),
)
TAKEN = (SELECTED, "ablations", "shared", REFERENCE, *ARMS)


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_no_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be made of letters and digits") as error:
        require_name("bins", name)
    message = str(error.value)
    assert message.startswith(f"bins: the name {name!r} ")
    assert "\n" not in message


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_that_budwood_uses_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"bins: the name '{name}' is taken by budwood itself; choose another"):
        require_name("bins", name)


@pytest.mark.parametrize("name", ["Shared", "SELECTED", "Distilled"])
def test_a_name_that_differs_from_budwoods_in_case_only_is_refused(name: str) -> None:
    """Some file systems hold the two for one."""
    with pytest.raises(ValueError, match="is taken by budwood itself"):
        require_name("bins", name)


def test_names_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(ValueError, match="spaces: the names 'Half' and 'half' differ in case alone; choose another"):
        require_names("spaces", ["quarter", "Half", "half"])
    require_names("spaces", ["quarter", "half"])


@given(st.from_regex(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*", fullmatch=True).filter(lambda name: name.lower() not in TAKEN))
@example("a" * 64)
def test_words_are_allowed(name: str) -> None:
    assert require_name("bins", name[:64].rstrip("-_")) == name[:64].rstrip("-_")


def test_a_name_that_no_folder_could_have_is_refused() -> None:
    with pytest.raises(ValueError, match="has 65 characters; allowed are 64"):
        require_name("bins", "a" * 65)


def test_what_a_report_shows_of_a_variant() -> None:
    assert str(Variant("half", "coarse")) == "half · coarse"
    assert str(Variant("half", "")) == "half"
    assert str(Variant("", "")) == "shared"


def test_the_first_seed_has_the_name_of_the_arm() -> None:
    assert [run_name("distilled", 42, seed) for seed in (42, 43)] == ["distilled", "distilled_seed_43"]
