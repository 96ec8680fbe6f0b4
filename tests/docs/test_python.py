"""Every Python block of the documentation runs, on a tiny teacher or on what the smoke study exported."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import ENGINES
from processes import run_python
from projects import ROOT
from shown import Block, blocks

TINY = """budwood.TeacherSettings(
    random={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256})"""
FEW = """settings=budwood.SearchSettings(
    population=8, epochs=1, num_elites=3, num_mutants=3, num_crossovers=3, num_randoms=2))"""
SUBSTITUTIONS = (
    ('.search({"half": 0.5})', f'.search({{"half": 0.5}}, {FEW}'),
    ('.search({"quarter": 0.5})', f'.search({{"quarter": 0.5}}, {FEW}'),
    ('.search({"phone": phone})', f'.search({{"phone": phone}}, {FEW}'),
    ('"HuggingFaceTB/SmolLM2-135M"', TINY),
    ('"texts/*.txt"', '"package://encodings/*.py"'),
    ('folder="my-study"', 'folder="my-study", engine=budwood.Engine(compile_loss="off")'),
    ("num_hidden_layers=20, hidden_size=480, intermediate_size=1024", "num_hidden_layers=2"),
    (
        "tokens=100_000_000, sequence_length=1024, global_batch=64, micro_batch=8, warmup_steps=50",
        "tokens=1024, sequence_length=64, global_batch=4, micro_batch=4",
    ),
    ('max_memory="96MiB", context=4096', 'max_memory="96KiB", context=64'),
    ('"HuggingFaceTB/smoltalk", "all"', '"json", data_files="talk.jsonl"'),
    ("num_train_epochs=1, bf16=True", 'max_steps=1, bf16=False, use_cpu=True, report_to="none"'),
)
"""What is put in place of what the blocks show."""
BLOCKS = {block.text: block for block in blocks("python")}
"""The first block of every text."""
MODELS = Path("data/06_models/half/coarse_uniform")
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
PEFT = ENGINES / "peft"
"""Not in the lock: transformers imports it wherever it finds it, and every run would be slower."""
ADAPTER = f"""
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{MODELS}/subnet")
get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained("my-adapter")
"""
"""Writes an adapter of a model, as a training with PEFT leaves it."""


def in_small(text: str) -> str:
    """Return a block with everything substituted."""
    for shown, small in SUBSTITUTIONS:
        text = text.replace(shown, small)
    return text


def run(text: str) -> dict[str, Any]:
    """Run a block, and return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(in_small(text), names)  # noqa: S102 - our own pages
    return names


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the exports of the smoke study are where the quickstart's would be."""
    folder = tmp_path_factory.mktemp("blocks")
    for name in ("subnet", "distilled"):
        shutil.copytree(finished / "data/smoke/06_models/half/coarse_uniform" / name, folder / MODELS / name)
    # The tiny teacher has no chat template, the quickstart's has one.
    (folder / MODELS / "distilled/chat_template.jinja").write_text(TEMPLATE)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (folder / "talk.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # other programs deprecate at their own pace
@pytest.mark.parametrize("block", BLOCKS.values(), ids=lambda block: block.where)
def test_a_block_runs_as_shown(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[object, str], None]
):
    if "from peft " in block.text:
        need(PEFT.is_dir(), f"PEFT is not installed in {ENGINES}; `make engines` installs it there")
        path = os.pathsep.join([str(ROOT / "src"), str(PEFT)])
        done = run_python(["-c", ADAPTER + in_small(block.text)], folder, os.environ | {"PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        return
    monkeypatch.chdir(folder)
    run(block.text)


def test_every_substitution_is_made():
    assert not [shown for shown, _ in SUBSTITUTIONS if not any(shown in text for text in BLOCKS)]


def test_the_settings_in_python_are_valid():
    (text,) = [text for text in BLOCKS if "budwood.Schedule(tokens=10_000_000" in text]
    assert run(text)["search"].num_evaluations == 220


def test_the_fitness_of_ones_own_is_one():
    (text,) = [text for text in BLOCKS if "def worst_token" in text]
    logits = torch.zeros(2, 3, 5)

    class Answer(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> Any:
            return type("Output", (), {"logits": logits})

    found = run(text)["worst_token"](Answer(), torch.ones(2, 4, dtype=torch.long))
    assert torch.allclose(found, torch.tensor(5.0).log())
