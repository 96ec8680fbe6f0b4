"""How much memory it takes to cut a sub-network out of a teacher on disk, ordered and exported.

A random Llama is written in shards. A process of its own orders it by the magnitude of its weights, cuts half of it and
writes the child, and reports its peak resident memory above what its imports took; pages of memory-mapped files count.
The bound is the teacher's size plus the child's.

Usage: python benchmarks/memory.py [--num-layers 24]

Last line: a JSON object with `teacher_bytes`, `child_bytes`, `peak_bytes` and `peak_over_bound`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import own_weights
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

WIDTH, HEADS, NEURONS, VOCAB = 2048, 16, 5632, 32_000
SHARD_SIZE = "500MB"


def write_teacher(folder: Path, num_layers: int) -> None:
    """Write a random Llama in bfloat16."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=NEURONS,
        num_hidden_layers=num_layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size=SHARD_SIZE)


def half_of(architecture: Architecture) -> Selection:
    """Select about half of a teacher: three quarters of its layers and channels, half of its neurons."""
    layer = replace(architecture.layers[0], intermediate_size=NEURONS // 2)
    depth = architecture.num_hidden_layers * 3 // 4
    return Selection.prefix(replace(architecture, hidden_size=WIDTH * 3 // 4, layers=(layer,) * depth))


def cut(teacher: Path, child: Path) -> None:
    """Cut half of a teacher and write it; print the peak memory in bytes above that of the imports."""
    before = peak_bytes()
    ordered = open_ordered(teacher, Ordering(ordering="magnitude"))
    own_weights(extract_child(ordered, half_of(ordered.ranked))).save_pretrained(child)
    sys.stdout.write(f"{peak_bytes() - before}\n")


def peak_bytes() -> int:
    """Return the largest resident memory of this process; `getrusage` would count that of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def weight_bytes(folder: Path) -> int:
    """Return the size of a folder's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    """Write a teacher, cut it in another process, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-layers", type=int, default=24)
    parser.add_argument("--cut", nargs=2, type=Path, metavar=("TEACHER", "CHILD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cut:
        cut(*arguments.cut)
        return
    with tempfile.TemporaryDirectory() as folder:
        teacher, child = Path(folder) / "teacher", Path(folder) / "child"
        write_teacher(teacher, arguments.num_layers)
        command = [sys.executable, __file__, "--cut", str(teacher), str(child)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very script
        peak, bound = int(done.stdout.splitlines()[-1]), weight_bytes(teacher) + weight_bytes(child)
        figures = {"teacher_bytes": weight_bytes(teacher), "child_bytes": weight_bytes(child), "peak_bytes": peak}
    sys.stdout.write(json.dumps(figures | {"peak_over_bound": round(peak / bound, 3)}) + "\n")


if __name__ == "__main__":
    main()
