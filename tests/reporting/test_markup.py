"""Markdown says what it is given, and no more."""

from markdown_it import MarkdownIt

from budwood.reporting.markup import markdown_table, nested_list, once, plural


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
