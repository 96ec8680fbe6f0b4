"""The script in every export says what it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from budwood.models import certificate_check
from budwood.models.certificate_check import check


@pytest.fixture
def export(tmp_path):
    """Return an export of one prompt, without a model."""
    (tmp_path / "certificate_prompts.json").write_text('[{"input_ids": [1, 2], "logprobs": [-0.5]}]')
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["vlm"]])
def test_without_an_engine_it_says_how_it_is_called(arguments):
    command = [sys.executable, "-I", certificate_check.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: certificate_check.py [-h] {transformers,vllm,llama.cpp} [folders ...]" in done.stderr


def test_an_engine_of_another_python_is_named_with_this_one(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    said = check("vllm", export)["error"]
    assert f"run this script with the Python that has vllm, this one is {sys.executable}" in said


def test_a_missing_file_or_library_of_llama_cpp_is_named(export, monkeypatch):
    monkeypatch.setenv("NODE_FOLDER", str(export))
    assert "model.gguf is not there; `serving: {gguf: f16}` writes it" in check("llama.cpp", export)["error"]
    (export / "model.gguf").touch()
    assert "index.js is not there; NODE_FOLDER names the folder that has it" in check("llama.cpp", export)["error"]


def test_a_folder_without_prompts_is_no_export():
    assert (
        check("vllm", Path("nowhere"))["error"]
        == "nowhere has no certificate_prompts.json, so it is no export of budwood"
    )
