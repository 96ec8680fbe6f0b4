"""The site of the documentation opens without a server or a network, and its figure shows the numbers of the study."""

import json
from collections.abc import Callable
from pathlib import Path

import figure
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from pages import WIDE, assert_scrolls_down_alone, browsing, chromium, complaints, wait_for
from projects import ROOT
from selenium.webdriver.common.by import By

DOCS = ROOT / "docs"


def numbers(name: str) -> dict:
    return json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", figure.FIGURES)
@pytest.mark.parametrize("scheme", figure.SCHEMES)
def test_figures_are_drawn_from_published_numbers(name: str, scheme: str):
    drawn = (DOCS / f"assets/{name}-{scheme}.svg").read_text(encoding="utf-8")
    assert drawn == figure.FIGURES[name](numbers(name), scheme)


def test_figures_and_tables_have_the_same_numbers():
    training, tokens, front = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("docs/evidence/training.md", "docs/evidence/tokens.md", "README.md")
    )
    for row in numbers("result")["rows"]:
        assert f"{row['loss']:.3f} ± {row['error']:.3f}" in training
    found = numbers("tokens")
    rows = {
        number: next(line for line in tokens.splitlines() if line.startswith(f"| {number:,} | "))
        for number in found["tokens"]
    }
    random, *cuts = found["arms"]
    for arm in found["arms"]:
        for number, loss in zip(found["tokens"], arm["losses"], strict=False):
            assert f"| {loss:.3f} |" in rows[number]
            assert f"{loss:.2f}" in front
    for cut in cuts:
        points = zip(cut["losses"], cut["advantages"], cut["advantage_errors"], strict=True)
        for number, without, (loss, advantage, error) in zip(found["tokens"], random["losses"], points, strict=False):
            assert f"| {loss:.3f} | {advantage:.3f} ± {error:.3f} |" in rows[number]
            assert advantage == pytest.approx(without - loss, abs=0.0016)  # three rounded numbers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built strictly: a warning, such as a dead link, fails."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        build(load_config("mkdocs.yml", site_dir=str(folder), strict=True))
    return folder


@pytest.mark.slow
@pytest.mark.browser
def test_the_site_opens_and_searches_from_a_folder(site: Path, need: Callable, tmp_path: Path):
    need(chromium(), "no Chromium with its driver: apt-get install chromium chromium-driver")
    with browsing(tmp_path / "profile", WIDE) as browser:
        for page in sorted({*site.rglob("*.html")} - {site / "404.html"}):  # of servers alone
            browser.get(page.as_uri())
            loaded = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
            assert not [name for name in loaded if not name.startswith("file:")], page
            assert_scrolls_down_alone(browser)
        browser.get((site / "index.html").as_uri())
        browser.execute_script("document.querySelector('#__search').click()")
        field = wait_for(browser, lambda: browser.find_element(By.CSS_SELECTOR, ".md-search__input"))
        browser.execute_script("arguments[0].focus()", field)
        field.send_keys("num_finalists")
        assert wait_for(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item"))
        assert complaints(browser) == []
