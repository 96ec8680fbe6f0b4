"""Servers on loopback as `make` starts them, and a headless Chromium to look at what they serve."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar

from projects import ROOT, environment
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from servers import free_port

PATIENCE_SECONDS = 300
"""On a machine whose cores others use; a quiet one needs seconds."""
SETTLING_SECONDS = 30
"""For a page to come to rest after its window has changed."""
VENV = Path(sys.prefix)
WIDE, NARROW = 1280, 420
"""Pixels of a window."""
SHEET = {"width": 688, "height": 950}
"""Pixels that margins of 14 mm leave: of A4 in width, of Letter, which is shorter, in height."""
LEAST_CONTRAST = 4.5
"""Of text, as WCAG 2.2 asks (1.4.3)."""
TEXT_CONTRASTS = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(colour[i] / 255), 0);
const behind = (each) => {
  const colour = channels(getComputedStyle(each).backgroundColor);
  return colour[3] === 0 ? behind(each.parentElement) : colour;
};
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
return [...document.body.querySelectorAll(':not(svg *, script, style)')]
  .filter((each) => [...each.childNodes].some(isText) && each.checkVisibility())
  .map((each) => {
    const [text, page] = [channels(getComputedStyle(each).color), behind(each)].map(luminance);
    return [(text + 0.05) / (page + 0.05), `${each.tagName} ${each.textContent.trim().slice(0, 40)}`];
  });
"""
"""Script: of every element with text, the luminance of its letters over that of what is behind them, and what it is."""
PRINT_FAULTS = """
const faults = [];
for (const each of document.body.querySelectorAll(':not(svg *, script, style)')) {
  const {width, height, right} = each.getBoundingClientRect();
  const note = (fault) => faults.push(`${each.tagName}.${each.className} ${fault}`);
  if (width && right > innerWidth + 1) note(`ends at ${right}`);
  if (getComputedStyle(each).overflowX !== 'visible' && each.scrollWidth > each.clientWidth + 1) note('is cut off');
  if (each.matches('details:not([open])')) note('is closed');
  if (each.matches('figure') && height > innerHeight) note(`is ${height} pixels high`);
}
return faults;
"""
"""Script: what a sheet of paper does not show whole."""

Found = TypeVar("Found")


def chromium() -> str | None:
    """Return where a browser is that its driver can drive."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found if shutil.which("chromedriver") else None


@contextmanager
def browsing(folder: Path, width: int, height: int = 900) -> Iterator[Chrome]:
    """Open a browser that finds no host but this one, and keeps its profile in a folder."""
    options = ChromeOptions()
    options.binary_location = chromium() or ""
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        f"--window-size={width},{height}",
        f"--user-data-dir={folder}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def making(project: Path, target: str, arguments: str, path: str = "/") -> Iterator[str]:
    """Run a target of the Makefile that serves a project, and end it and all it started."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # The environment is installed already: where the tests run.
    make = ["make", f"--file={ROOT / 'Makefile'}", f"--old-file={VENV / '.installed'}", f"VENV={VENV}", target]
    with (project / f"{target}.log").open("w") as log:
        process = subprocess.Popen(
            [*make, "ENV=smoke", f"ARGS={arguments} --port={port}"],
            cwd=project,
            env=environment(project),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            await_answer(port, path, process, Path(log.name))
            yield url
        finally:
            # Kedro-Viz serves from a child, MLflow from a child of a child.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def await_answer(port: int, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers at all."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except OSError:
            time.sleep(0.2)
        else:
            return
        finally:
            connection.close()
    raise AssertionError(f"{process.args} never answered:\n{log.read_text()[-3000:]}")


def assert_scrolls_down_alone(driver: Chrome) -> None:
    """Assert that a page never scrolls sideways, in a wide window or a narrow one: what is wide scrolls in itself."""
    # A search box that slides to its place is too wide on the way.
    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    for width in (NARROW, WIDE):
        driver.set_window_size(width, 900)
        wait_for(driver, lambda width=width: driver.execute_script("return window.innerWidth") == width)
        message = f"{driver.current_url} is wider than {width} pixels"
        WebDriverWait(driver, SETTLING_SECONDS).until(lambda _: driver.execute_script(fits), message)


@contextmanager
def emulating(driver: Chrome, media: str, scheme: str) -> Iterator[None]:
    """Show a page as a medium does, `screen` or `print`, to who prefers a colour scheme, `light` or `dark`."""
    preferred = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": preferred})
    yield
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def assert_text_is_legible(driver: Chrome) -> None:
    """Assert that text stands out from what is behind it: lighter in the dark, else darker, on paper always."""
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        with emulating(driver, media, scheme):
            contrasts = driver.execute_script(TEXT_CONTRASTS)
        is_dark = (media, scheme) == ("screen", "dark")
        assert contrasts
        faint = [text for ratio, text in contrasts if (ratio if is_dark else 1 / ratio) < LEAST_CONTRAST]
        assert not faint, f"{driver.current_url} on {media}, {scheme}: {faint}"


def assert_prints_whole(driver: Chrome) -> None:
    """Assert that nothing is too wide for a sheet, cut off or folded away, and that no figure needs two sheets."""
    shape = {**SHEET, "deviceScaleFactor": 1, "mobile": False}
    with emulating(driver, "print", "light"):
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
        driver.execute_script("dispatchEvent(new Event('beforeprint'))")
        faults = driver.execute_script(PRINT_FAULTS)
        driver.execute_script("dispatchEvent(new Event('afterprint'))")
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert not faults, f"{driver.current_url} on paper: {faults}"


def wait_for(driver: Chrome, condition: Callable[[], Found]) -> Found:
    """Return what a condition finds, as soon as it finds something."""
    ignored = (NoSuchElementException, StaleElementReferenceException, ElementClickInterceptedException)
    return WebDriverWait(driver, PATIENCE_SECONDS, ignored_exceptions=ignored).until(lambda _: condition())


def click(driver: Chrome, find: Callable[[], WebElement]) -> None:
    """Click an element as soon as it is there and can be hit."""

    def hit() -> bool:
        find().click()
        return True

    wait_for(driver, hit)


def touch(driver: Chrome, find: Callable[[], WebElement]) -> None:
    """Send a click to an element of a drawing, which may be too small to hit, or outside of the window."""

    def send() -> bool:
        driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", find())
        return True

    wait_for(driver, send)


def complaints(driver: Chrome) -> list[str]:
    """Return what went wrong on the page, apart from hosts that are not there."""
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    return [message for message in errors if "ERR_NAME_NOT_RESOLVED" not in message]
