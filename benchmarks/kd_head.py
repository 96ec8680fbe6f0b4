"""What one distillation step of the output head costs: ours, and whittle 0.6.0's `DistillLoss` on full logits.

2,048 tokens, 50,304 words, a student of width 512 under a teacher of width 1,024, all in bfloat16 on one thread:
`alpha * CE + beta * T^2 * KL` from last hidden states, with the gradients of the student's states and head. Both sides
read the same numbers and run in fresh processes by turns, whittle in an environment of its own (`whittle_kd.py`). Time
is processor time, the median over all rounds; memory is the peak of resident memory over its state before the step,
after one step that warms up (and compiles). Losses are compared with float64.

Usage: python benchmarks/kd_head.py [--num-turns 2] [--num-repeats 5] [--eager]

Last line: a JSON object with `memory_ratio` and `time_ratio` (ours over whittle's), `loss_error` and `peer_loss_error`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import CACHE_DIR, WHITTLE_INSTALLS, make_environment, run_script
from torch.nn import functional
from whittle_kd import measure_step

from budwood.training.losses import Logits, chunked_loss
from budwood.training.settings import DistillationWeights

NUM_TOKENS, VOCAB_SIZE, WIDTH, TEACHER_WIDTH = 2_048, 50_304, 512, 1_024
WEIGHTS = {"alpha": 0.2, "beta": 0.8, "temperature": 0.9}  # the paper's


def make_inputs(file: Path) -> dict[str, Any]:
    """Write and return states, heads and labels at the scale of trained models: losses of a few nats."""
    generator = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(rows, columns, generator=generator)).bfloat16()

    inputs = {
        "hidden": normal(NUM_TOKENS, WIDTH, 1.0),
        "head": normal(VOCAB_SIZE, WIDTH, 0.05),
        "teacher_hidden": normal(NUM_TOKENS, TEACHER_WIDTH, 1.0),
        "teacher_head": normal(VOCAB_SIZE, TEACHER_WIDTH, 0.08),
        "labels": torch.randint(0, VOCAB_SIZE, (NUM_TOKENS,), generator=generator),
        **WEIGHTS,
    }
    torch.save(inputs, file)
    return inputs


def exact_loss(inputs: dict[str, Any]) -> float:
    """Return the loss per token in float64, from PyTorch's own functions."""
    total, temperature = 0.0, inputs["temperature"]
    head, teacher_head = inputs["head"].double(), inputs["teacher_head"].double()
    for start in range(0, NUM_TOKENS, 256):
        chunk = slice(start, start + 256)
        logits = inputs["hidden"][chunk].double() @ head.T
        teacher = inputs["teacher_hidden"][chunk].double() @ teacher_head.T
        own, other = ((part / temperature).log_softmax(-1) for part in (logits, teacher))
        divergence = functional.kl_div(own, other, reduction="sum", log_target=True)
        text = functional.cross_entropy(logits, inputs["labels"][chunk], reduction="sum")
        total += float(inputs["alpha"] * text + inputs["beta"] * temperature**2 * divergence)
    return total / NUM_TOKENS


def measure(file: Path, num_repeats: int, *, compiled: bool) -> dict[str, Any]:
    """Return what `whittle_kd.py` returns, of our head."""
    torch.set_num_threads(1)
    inputs = torch.load(file)
    hidden, head = (inputs[name].requires_grad_() for name in ("hidden", "head"))
    target = Logits(inputs["teacher_hidden"], inputs["teacher_head"])
    weights = DistillationWeights(inputs["alpha"], inputs["beta"], inputs["temperature"])

    def step() -> float:
        loss = chunked_loss(Logits(hidden, head), inputs["labels"], target, weights, compiled=compiled) / NUM_TOKENS
        loss.backward()
        hidden.grad = head.grad = None
        return float(loss.detach())

    return measure_step(step, num_repeats)


def measure_in_fresh_process(file: Path, num_repeats: int, *, compiled: bool) -> dict[str, Any]:
    """Return what `measure` returns of this script run again."""
    command = [sys.executable, __file__, "--inputs", str(file), "--num-repeats", str(num_repeats)]
    done = subprocess.run(  # noqa: S603 - this very script
        [*command, *([] if compiled else ["--eager"])], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure all and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-turns", type=int, default=2, help="fresh processes of each side")
    parser.add_argument("--num-repeats", type=int, default=5, help="timed rounds of a process")
    parser.add_argument("--eager", action="store_true", help="measure our head without torch.compile")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    repeats, compiled = arguments.num_repeats, not arguments.eager
    if arguments.inputs:
        sys.stdout.write(json.dumps(measure(arguments.inputs, repeats, compiled=compiled)) + "\n")
        return
    python = make_environment("whittle", WHITTLE_INSTALLS, arguments.cache_dir)
    script = Path(__file__).with_name("whittle_kd.py")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.pt"
        exact = exact_loss(make_inputs(file))
        turns = []
        for _ in range(arguments.num_turns):
            peer = run_script(python, script, (str(file), "--num-repeats", str(repeats)))
            turns.append((measure_in_fresh_process(file, repeats, compiled=compiled), peer))
    ours, peers = zip(*turns, strict=True)
    figures = {}
    for name, results in (("ours", ours), ("whittle", peers)):
        seconds = statistics.median(second for result in results for second in result["cpu_seconds"])
        memory = statistics.median(result["memory_bytes"] for result in results)
        error = max(abs(result["loss"] - exact) for result in results)
        figures[name] = (seconds, memory, error)
        sys.stderr.write(
            f"{name}, torch {results[0]['torch']}: {seconds:.2f} s, {memory / 1e6:.0f} MB, loss off by {error:.1e}\n"
        )
    (seconds, memory, error), (peer_seconds, peer_memory, peer_error) = figures["ours"], figures["whittle"]
    line = {"memory_ratio": round(memory / peer_memory, 3), "time_ratio": round(seconds / peer_seconds, 3)}
    sys.stdout.write(json.dumps(line | {"loss_error": error, "peer_loss_error": peer_error}) + "\n")


if __name__ == "__main__":
    main()
