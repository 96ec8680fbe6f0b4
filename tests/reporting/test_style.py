"""One style: readable on light and on dark pages, and the same for one panel or ten."""

import pytest

from budwood.records.cost import STAGES
from budwood.records.names import ARMS
from budwood.reporting import style


def luminance(color: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_text_and_arms_are_seen_on_both_pages(page: str) -> None:
    """Graphics need 3 : 1 (WCAG 2.2, 1.4.11); text in grey is large or beside what it names."""
    assert contrast(style.GREY, page) > 3.9
    for arm in ARMS:
        assert contrast(style.ARM_COLORS[arm], page) > 3


def test_everything_has_a_colour_of_its_own() -> None:
    assert set(STAGES) <= set(style.STAGE_COLORS)
    assert len(set(style.STAGE_COLORS.values())) == len(style.STAGE_COLORS)
    assert set(ARMS) <= set(style.ARM_COLORS) == set(style.ARM_SYMBOLS)
    assert len(set(style.ARM_SYMBOLS.values())) == len(style.ARM_SYMBOLS)


@pytest.mark.parametrize(("number", "rows"), [(1, 1), (2, 1), (5, 3), (10, 5)])
def test_panels_have_one_height_however_many_there_are(number: int, rows: int) -> None:
    figure, places = style.panels("Title", [str(place) for place in range(number)], "x", "y")
    bottom, top = figure.layout.yaxis.domain
    assert (top - bottom) * (figure.layout.height - style.MARGIN["t"] - style.MARGIN["b"]) == pytest.approx(260)
    assert places[-1] == {"row": rows, "col": 2 - number % 2}
