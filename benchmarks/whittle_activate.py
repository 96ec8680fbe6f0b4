"""How fast whittle 0.6.0 turns a candidate into a model that runs, and how fast that model runs.

A random super-network of the teacher's sizes is built once, in float32. Each round then visits every sub-network in
turn, as a search does, and times four steps:

* `set`: `GPT.set_sub_network`, which marks the sub-network inside the super-network. It rebuilds the rotary tables for
  the teacher's whole context length.
* `extract`: `extract_current_sub_network`, which builds the marked sub-network as a model of its own.
* `forward`: that model on `[1, num_tokens]` random tokens, all logits, after one run that is not timed.
* `forward_in_place`: the super-network with the sub-network marked, on the same tokens.

Every step is whittle's own function called as published. One round goes ahead untimed. Results are medians over the
rounds, of the wall clock (`*_seconds`) and of the process's processor time (`*_cpu_seconds`, summed over threads; the
steadier one on a busy machine with one thread). `max_logit_difference` compares the two forwards and should be 0.

The script runs in the environment of `peers.WHITTLE_INSTALLS`, imports nothing of budwood, and closes its output with
one line of JSON whose lists follow the order of the sub-networks.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from litgpt import Config
from whittle.models.gpt import GPT
from whittle.models.gpt.extract import extract_current_sub_network

_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a decoder whose layers are all alike, in Hugging Face's words."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher(Sizes):
    """Sizes of the super-network, a Llama model: RMSNorm, SwiGLU, no bias."""

    vocab_size: int
    max_position_embeddings: int


TEACHER = Teacher(  # SmolLM2-135M, 134.5M parameters
    vocab_size=49_152,
    max_position_embeddings=8_192,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    intermediate_size=1_536,
)

# Half of the teacher, each cut along other axes. whittle takes a sub-network when no size exceeds the teacher's, groups
# divide heads, and a group has no more heads than one of the teacher's (3). Counts include the embedding once.
SUBNETS = (
    Sizes(  # layers and neurons: 68.1M parameters
        hidden_size=576,
        num_hidden_layers=18,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=768,
    ),
    Sizes(  # layers alone: 67.3M
        hidden_size=576,
        num_hidden_layers=11,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=1_536,
    ),
    Sizes(  # channels, heads inside the groups, layers: 67.6M
        hidden_size=384,
        num_hidden_layers=22,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=1_536,
    ),
    Sizes(  # channels, whole groups, neurons, at full depth: 69.4M
        hidden_size=448,
        num_hidden_layers=30,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=832,
    ),
)

Seconds = list[tuple[float, float]]
"""Wall-clock and processor seconds of one step, one pair a round."""


def super_network(teacher: Teacher) -> GPT:
    """Build whittle's super-network with random float32 weights.

    whittle ties no embeddings by itself, so the output matrix is a second one.
    """
    torch.manual_seed(_SEED)
    return GPT(
        Config(
            block_size=teacher.max_position_embeddings,
            vocab_size=teacher.vocab_size,
            padded_vocab_size=teacher.vocab_size,
            n_embd=teacher.hidden_size,
            n_layer=teacher.num_hidden_layers,
            n_head=teacher.num_attention_heads,
            n_query_groups=teacher.num_key_value_heads,
            head_size=teacher.head_dim,
            intermediate_size=teacher.intermediate_size,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            parallel_residual=False,
            bias=False,
            rotary_percentage=1.0,
        )
    ).eval()


@contextmanager
def timed(record: Seconds) -> Iterator[None]:
    """Append the seconds that the block takes to `record`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    record.append((time.perf_counter() - wall, time.process_time() - cpu))


def visit(model: GPT, subnet: Sizes, tokens: torch.Tensor, record: dict[str, Seconds]) -> tuple[int, float]:
    """Set, extract and run one sub-network, adding the seconds of each step to `record`.

    Returns:
        Parameters of the extracted model, with the embedding and the output matrix counted once each; largest absolute
        difference between its logits and those of the super-network with the same sub-network set.
    """
    with timed(record["set"]):
        model.set_sub_network(
            sub_network_n_embd=subnet.hidden_size,
            sub_network_intermediate_size=subnet.intermediate_size,
            sub_network_num_heads=subnet.num_attention_heads,
            sub_network_n_layers=subnet.num_hidden_layers,
            sub_network_query_groups=subnet.num_key_value_heads,
            sub_network_head_size=subnet.head_dim,
        )
    with timed(record["extract"]):
        extracted = extract_current_sub_network(model)
    extracted.eval()
    with torch.inference_mode():
        extracted(tokens)
        with timed(record["forward"]):
            logits = extracted(tokens)
        with timed(record["forward_in_place"]):
            logits_in_place = model(tokens)
        difference = float((logits - logits_in_place).abs().max())
    return sum(parameter.numel() for parameter in extracted.parameters()), difference


def measure(teacher: Teacher, subnets: Sequence[Sizes], num_tokens: int, num_repeats: int) -> dict[str, list[float]]:
    """Time every sub-network `num_repeats` times, round by round, after an untimed round.

    Returns:
        Lists of one number per sub-network: medians in seconds, parameters, logit differences.
    """
    model = super_network(teacher)
    tokens = torch.randint(teacher.vocab_size, (1, num_tokens))
    records: list[dict[str, Seconds]] = [defaultdict(list) for _ in subnets]
    results: dict[str, list[float]] = defaultdict(list)
    for number in range(num_repeats + 1):
        sys.stderr.write(f"whittle: round {number} of {num_repeats}\n")
        for subnet, record in zip(subnets, records, strict=True):
            num_parameters, difference = visit(model, subnet, tokens, record)
            if number == num_repeats:
                results["num_parameters"].append(num_parameters - teacher.vocab_size * subnet.hidden_size)
                results["num_stored_parameters"].append(num_parameters)
                results["max_logit_difference"].append(difference)
    for record in records:
        for step, seconds in record.items():
            walls, cpus = zip(*seconds[1:], strict=True)
            results[f"{step}_seconds"].append(statistics.median(walls))
            results[f"{step}_cpu_seconds"].append(statistics.median(cpus))
    return dict(results)


def read_sizes(text: str) -> tuple[Teacher, tuple[Sizes, ...]]:
    """Read `{"teacher": {...}, "subnets": [{...}, ...]}` from JSON, or from the file that `text` names."""
    sizes = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    return Teacher(**sizes["teacher"]), tuple(Sizes(**subnet) for subnet in sizes["subnets"])


def main() -> None:
    """Measure and write the line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--sizes",
        help="JSON, or a file of it: teacher and subnets with the fields of this script's TEACHER and SUBNETS",
    )
    parser.add_argument("--num-tokens", type=int, default=256, help="tokens of one forward")
    parser.add_argument("--num-repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--num-threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    teacher, subnets = read_sizes(arguments.sizes) if arguments.sizes else (TEACHER, SUBNETS)
    result = {
        "versions": {name: version(name) for name in ("whittle", "litgpt", "torch")},
        "dtype": "float32",
        "num_threads": arguments.num_threads,
        "num_tokens": arguments.num_tokens,
        "num_repeats": arguments.num_repeats,
        "teacher": asdict(teacher),
        "subnets": [asdict(subnet) for subnet in subnets],
        **measure(teacher, subnets, arguments.num_tokens, arguments.num_repeats),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
