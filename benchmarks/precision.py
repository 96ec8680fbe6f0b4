"""How long bfloat16 takes on this CPU beside float32, and which of the two `precision: auto` takes.

A model of random weights with the sizes of SmolLM2-135M reads 1,024 tokens on one thread: a matrix product as its MLPs
have them, a forward pass with all logits, and the gradients of a training step, in bfloat16 by autocast. Precisions run
by turns; figures are medians of processor time.

Usage: python benchmarks/precision.py [--num-rounds 3] [--small]

Last line: a JSON object with `product_ratio`, `forward_ratio` and `step_ratio` (bfloat16 over float32),
their seconds in float32, and `auto`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from budwood.models.device import choose_compute

SMOLLM2 = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SMALL = SMOLLM2 | {"vocab_size": 512, "hidden_size": 144, "intermediate_size": 384, "num_hidden_layers": 2}
BATCH, LENGTH = 4, 256
PRECISIONS = (torch.float32, torch.bfloat16)


def product(sizes: dict[str, int], dtype: torch.dtype) -> Callable[[], object]:
    """Return a product of activations and the weights of an MLP."""
    states = torch.randn(BATCH * LENGTH, sizes["hidden_size"], dtype=dtype)
    weights = torch.randn(sizes["intermediate_size"], sizes["hidden_size"], dtype=dtype)
    return partial(functional.linear, states, weights)


def forward(model: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Read tokens as searches and evaluations do."""
    with torch.inference_mode():
        model(tokens)


def step(model: PreTrainedModel, tokens: torch.Tensor, dtype: torch.dtype) -> None:
    """Compute the gradients of a training step."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model(tokens, labels=tokens).loss
    loss.backward()
    model.zero_grad()


def seconds(work: Callable[[], object], num_times: int = 1) -> float:
    """Return the processor time of some work."""
    begun = time.process_time()
    for _ in range(num_times):
        work()
    return (time.process_time() - begun) / num_times


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few layers and words")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = SMALL if arguments.small else SMOLLM2
    tokens = torch.randint(0, sizes["vocab_size"], (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    trained = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=torch.float32)
    works: dict[str, dict[torch.dtype, Callable[[], object]]] = {"product": {}, "forward": {}, "step": {}}
    for dtype in PRECISIONS:
        read = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype).eval()
        works["product"][dtype] = product(sizes, dtype)
        works["forward"][dtype] = partial(forward, read, tokens)
        works["step"][dtype] = partial(step, trained, tokens, dtype)
    figures: dict[str, object] = {}
    for name, by_precision in works.items():
        num_times = 20 if name == "product" else 1
        for work in by_precision.values():
            work()
        rounds = [[seconds(work, num_times) for work in by_precision.values()] for _ in range(arguments.num_rounds)]
        float32, bfloat16 = map(statistics.median, zip(*rounds, strict=True))
        figures |= {f"{name}_ratio": round(bfloat16 / float32, 3), f"{name}_seconds": round(float32, 5)}
        sys.stderr.write(f"{name}: float32 {float32:.4f} s, bfloat16 {bfloat16:.4f} s\n")
    sys.stdout.write(json.dumps(figures | {"auto": choose_compute("cpu").precision}) + "\n")


if __name__ == "__main__":
    main()
