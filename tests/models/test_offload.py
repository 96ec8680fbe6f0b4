"""A model that has weights only while they are needed computes what the whole one does, in little memory."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from processes import run_python
from projects import ROOT
from teachers import TEACHERS, TYPICAL, families, tiny_teacher
from transformers import AutoModelForCausalLM, LlamaConfig

from budwood.models.checkpoint import Checkpoint, load_model
from budwood.models.offload import offloaded
from budwood.models.probe import probe_logits
from budwood.models.teacher import byte_tokenizer

IDS = torch.arange(1, 40)[None]
PEAK = """
import gc, json, sys
from pathlib import Path
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import release_memory
from budwood.subnet.intake import verify_teacher

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

first, *folders = map(Path, sys.argv[1:])
found = []
for folder in (first, *folders):
    teacher = Checkpoint.open(folder)
    tokenizer = teacher.load_tokenizer()
    gc.collect()
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    verify_teacher(teacher, tokenizer)
    found.append(peak() - before)
print(json.dumps(found[1:]))
"""


@torch.no_grad()
def logits_of(folder: Path) -> torch.Tensor:
    with offloaded(Checkpoint.open(folder)) as model:
        assert all(parameter.is_meta for parameter in model.parameters())
        made = model(input_ids=IDS, use_cache=False).logits
        assert all(parameter.is_meta for parameter in model.parameters())
    return made


@pytest.mark.parametrize("name", families(*TYPICAL))
def test_logits_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    """Constants too, which a model that is loaded in bfloat16 rounds."""
    family, tied = TEACHERS[name]
    tiny_teacher(family, tied=tied).to(torch.bfloat16).save_pretrained(tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(logits_of(tmp_path), probe_logits(whole, IDS))


def test_a_layerwise_export_runs_in_its_own_class(own_folder: Path) -> None:
    assert torch.equal(logits_of(own_folder), probe_logits(load_model(own_folder, torch.float32), IDS))


def test_accelerate_may_warn_again_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("accelerate.big_modeling").level
    tiny_teacher("llama", tied=True).save_pretrained(tmp_path)
    logits_of(tmp_path)
    assert "meta device" not in caplog.text
    assert logging.getLogger("accelerate.big_modeling").level == level


@pytest.mark.slow
def test_taking_in_a_teacher_of_twice_the_depth_takes_no_more_memory(tmp_path: Path) -> None:
    """Resident memory of a process, with pages of mapped files."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 4, "vocab_size": 257}
    for depth in (1, 4, 8):
        config = LlamaConfig(**sizes, num_hidden_layers=depth)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / str(depth))
        byte_tokenizer().save_pretrained(tmp_path / str(depth))
    done = run_python(["-c", PEAK, "1", "4", "8"], tmp_path, os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stderr
    shallow, deep = json.loads(done.stdout.splitlines()[-1])
    layer = 2 * (4 * 512**2 + 3 * 512 * 2048)
    assert deep < shallow + 1.5 * layer, (shallow, deep)
    assert deep < 8 * layer, "less than the weights"
