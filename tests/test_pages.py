"""What a person opens after a run, in a real browser: the report, the graph and the curves."""

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from pages import (
    WIDE,
    assert_prints_whole,
    assert_scrolls_down_alone,
    assert_text_is_legible,
    browsing,
    chromium,
    click,
    complaints,
    making,
    touch,
    wait_for,
)
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture
def browser(need: Callable, tmp_path: Path) -> Iterator[Chrome]:
    """Return a browser; what it shows at the end is kept as `page.png`."""
    need(chromium(), "no Chromium with its driver: apt-get install chromium chromium-driver")
    with browsing(tmp_path / "profile", WIDE) as driver:
        yield driver
        driver.save_screenshot(str(tmp_path / "page.png"))


def test_the_report_draws_every_figure_offline(browser: Chrome, finished: Path):
    report = finished / "data/smoke/08_reporting/report.html"
    assert report.is_file()
    browser.get(report.as_uri())
    figures = wait_for(browser, lambda: browser.find_elements(*css("figure .plotly-graph-div")))
    assert len(figures) >= 7
    for figure in figures:
        wait_for(browser, lambda figure=figure: figure.find_elements(*css(".main-svg")))
        drawn = browser.execute_script("return arguments[0].querySelectorAll('.trace, .bars').length", figure)
        assert drawn, figure.get_attribute("id")
    assert complaints(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert_text_is_legible(browser)
    assert_prints_whole(browser)
    assert_scrolls_down_alone(browser)


def test_the_graph_unfolds_and_shows_a_figure(browser: Chrome, finished: Path):
    with making(finished, "viz", "--no-browser", "/api/main") as url:
        browser.get(url)
        for name in ("subnets", "subnets.half", "subnets.half.coarse_uniform"):
            touch(browser, lambda name=name: browser.find_element(*css(f".pipeline-node[data-id='{name}']")))
        wait_for(browser, lambda: node_called(browser, "train_distilled"))
        touch(browser, lambda: node_called(browser, "figure_training_curves_tokens"))
        assert wait_for(browser, lambda: browser.find_elements(*css(".pipeline-metadata .main-svg .trace")))
        assert complaints(browser) == []


def test_the_tracker_leads_to_the_curves_of_a_training(browser: Chrome, finished: Path):
    with making(finished, "mlflow", "") as url:
        browser.get(url)
        click(browser, lambda: browser.find_element(By.XPATH, "//*[text()='Model training']"))
        click(browser, lambda: browser.find_element(By.LINK_TEXT, "smoke"))
        wait_for(browser, lambda: browser.find_element(By.LINK_TEXT, "whole study"))
        click(browser, lambda: browser.find_element(*css(".ag-row button")))
        wait_for(browser, lambda: browser.find_element(By.LINK_TEXT, "half.coarse_uniform"))
        client = mlflow.MlflowClient(f"sqlite:///{finished}/data/09_tracking/mlflow.db")
        experiment = client.get_experiment_by_name("smoke").experiment_id
        run = client.search_runs([experiment], "attributes.run_name = 'half.coarse_uniform.distilled'")[0].info.run_id
        browser.get(f"{url}/#/experiments/{experiment}/runs/{run}/model-metrics")
        search = wait_for(browser, lambda: browser.find_element(*css("input[placeholder='Search metric charts']")))
        search.send_keys("heldout_loss")
        assert wait_for(browser, lambda: browser.find_elements(*css(".js-plotly-plot .scatterlayer .trace")))
        assert browser.find_element(By.XPATH, "//*[text()='heldout_loss']")


def css(selector: str) -> tuple[str, str]:
    """Return how the driver finds by a selector."""
    return By.CSS_SELECTOR, selector


def node_called(browser: Chrome, name: str) -> WebElement:
    """Return the node of the graph that shows a name."""
    for node in browser.find_elements(*css(".pipeline-node")):
        if node.get_attribute("textContent") == name:
            return node
    raise NoSuchElementException(name)
