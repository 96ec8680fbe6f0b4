"""What one step of whittle 0.6.0's distillation loss costs: both heads' logits, `DistillLoss`, and the gradients.

The step is that of whittle's own `pretrain/distill_model.py`: the student's and the teacher's logits in full, the loss
as published, `backward`. It reads hidden states and head weights from a file that `kd_head.py` wrote, so that both
sides work on the same numbers.

The script runs in the environment of `peers.WHITTLE_INSTALLS`, imports nothing of budwood, and closes its output with
one line of JSON: the loss, processor seconds of every round, and the peak of resident memory over its state before.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def measure_step(step: Callable[[], float], num_repeats: int) -> dict[str, Any]:
    """Return the loss of a step, and its peak memory and processor time after one step that warms up.

    Args:
        step: computes the loss and its gradients, which it drops itself.
        num_repeats: timed rounds.

    Returns:
        `torch`, `loss`, `cpu_seconds` of every round, `memory_bytes`.
    """
    loss = step()
    before = _peak_bytes(reset=True)
    step()
    memory_bytes = _peak_bytes() - before
    seconds = []
    for _ in range(num_repeats):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return {"torch": torch.__version__, "loss": loss, "cpu_seconds": seconds, "memory_bytes": memory_bytes}


def _peak_bytes(*, reset: bool = False) -> int:
    """Return the process's peak resident memory since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure and write the line of JSON."""
    from whittle.loss import DistillLoss  # noqa: PLC0415 - kd_head.py, which has no whittle, measures as this script does

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--num-repeats", type=int, default=5, help="timed rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    inputs = torch.load(arguments.inputs)
    hidden, head = (inputs[name].requires_grad_() for name in ("hidden", "head"))
    loss_of = DistillLoss(alpha=inputs["alpha"], beta=inputs["beta"], temperature=inputs["temperature"])

    def step() -> float:
        with torch.no_grad():
            teacher_logits = inputs["teacher_hidden"] @ inputs["teacher_head"].T
        loss = loss_of(hidden @ head.T, inputs["labels"], teacher_logits)
        loss.backward()
        hidden.grad = head.grad = None
        return float(loss.detach())

    sys.stdout.write(json.dumps(measure_step(step, arguments.num_repeats)) + "\n")


if __name__ == "__main__":
    main()
