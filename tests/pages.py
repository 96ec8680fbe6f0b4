"""Servers on loopback as `make` starts them, and a headless Chromium to look at what they serve."""

import os
import shutil
import signal
import socket
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

PATIENCE_SECONDS = 300
"""On a machine whose cores others use; a quiet one needs seconds."""
SETTLING_SECONDS = 30
"""For a page to come to rest after its window has changed."""
VENV = Path(sys.prefix)
WIDE, NARROW = 1280, 420
"""Pixels of a window."""

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


def free_port() -> int:
    """Return a port that nobody listens on; Kedro-Viz takes none above 49151, where the system's own choices lie."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("all ports are taken")


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
