"""Markdown shows exactly what it is given."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from budwood.reporting.markup import intervals, literal, markdown_table, nested_list, once, plural


def test_what_repeats_the_line_above_is_left_out() -> None:
    assert once(["a", "a", "b", "a"]) == ["a", "", "b", "a"]
    assert once([]) == []


def test_a_table_keeps_its_cells_whatever_they_hold() -> None:
    page = MarkdownIt("commonmark").enable("table").render(markdown_table({"name": ["a|b\nc"], "number": ["1"]}, 1))
    assert ">a|b c</td>" in page
    assert page.count("<td") == 2


def test_a_list_nests_as_its_mapping_does() -> None:
    assert nested_list({"a": 1, "b": {"c": {"d": 2}}, "e": {}}) == "- a: `1`\n- b:\n  - c:\n    - d: `2`\n- e: `{}`"


def test_nouns_agree_with_their_numbers() -> None:
    assert [plural(number, "arm") for number in (0, 1, 1234)] == ["0 arms", "1 arm", "1,234 arms"]


@given(st.text(st.sampled_from("ab1 \\`*_[]()<>&#|~=+-.!\n'\"{}")))
def test_literal_text_is_shown_as_it_is(text: str) -> None:
    parser, line = MarkdownIt("commonmark").enable("table"), " ".join(text.split())
    assert parser.render(literal(text)) == (f"<p>{escapeHtml(line)}</p>\n" if line else "")
    cell = parser.render(markdown_table({"text": [literal(text)], "other": ["x"]}, 2)).split("<td")[1]
    assert cell.split(">", 1)[1].removesuffix("\n").removesuffix("</td>") == escapeHtml(line)


def test_an_interval_that_is_not_known_is_not_made_up() -> None:
    assert intervals([1.0, None, 2.0, 3.0], [(0.5, 1.5), None, None, (None, 4.0)]) == [
        *("1.000 [0.500, 1.500]", "n/a", "2.000 [n/a]", "3.000 [n/a]"),
    ]
