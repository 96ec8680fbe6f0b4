"""Exports, written once, and what the engines say about them."""

from pathlib import Path

import pytest
from engines import ENGINES
from exports import KINDS, write_export

from budwood.models.engines import Answer, ask, is_installed
from budwood.models.gguf_export import write_gguf

MISSING = f"is not installed in {ENGINES}; `make engines` installs it there, BUDWOOD_ENGINES names another folder"


@pytest.fixture(scope="session")
def vllm(need) -> Path:
    """Return the folder of environments, in which vLLM is."""
    need(is_installed("vllm", ENGINES), f"vLLM {MISSING}")
    return ENGINES


@pytest.fixture(scope="session")
def llama_cpp(need) -> Path:
    """Return the folder of environments, in which llama.cpp is."""
    need(is_installed("llama.cpp", ENGINES), f"llama.cpp {MISSING}")
    return ENGINES


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return {name: write_export(kind, folder / name) for name, kind in KINDS.items()}


@pytest.fixture(scope="session")
def in_vllm(vllm, exports) -> dict[str, Answer]:
    return {folder.name: answer for folder, answer in ask("vllm", list(exports.values()), vllm).items()}


@pytest.fixture(scope="session")
def in_llama_cpp(llama_cpp, exports) -> dict[str, Answer]:
    written = [exports[name] for name, kind in KINDS.items() if " " not in kind.gguf]
    for folder in written:
        write_gguf(folder, folder / "model.gguf", "f32")
    return {folder.name: answer for folder, answer in ask("llama.cpp", written, llama_cpp).items()}
