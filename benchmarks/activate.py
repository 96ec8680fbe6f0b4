"""How long it takes to turn a candidate into a model that runs: ours, whittle 0.6.0's, and a rebuild in transformers.

A random SmolLM2-135M is cut to four half-size shapes, in float32 on one thread. `activate` is `extract_child` on an
ordered teacher in memory; `corrected` corrects it in closed form from stored moments, as a search with
`compare: corrected` does; `hf_rebuild` builds the same class with `from_config` and loads copies of the same weights;
whittle runs in an environment of its own (`whittle_activate.py`). Forwards are of the same shapes on the same number of
tokens. All times are processor time, medians over rounds and then over shapes; a round visits every shape once.

Usage: python benchmarks/activate.py [--num-repeats 5]

Last line: a JSON object with `activate_ms`, `corrected_ms`, `whittle_extract_ms`, `hf_rebuild_ms`, `corrected_ratio`
(over `activate`), `corrected_reading_ratio` (the same, each with a reading of 1,536 tokens), `forward_ratio` (ours over
whittle's) and `counts_per_second` (parameter counts of layer-wise candidates).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import CACHE_DIR, WHITTLE_INSTALLS, make_environment, run_script
from transformers import AutoModelForCausalLM, PreTrainedModel

from budwood.arch.count import population_parameters
from budwood.arch.sampling import draw_many
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.checkpoint import own_weights, random_model
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.subnet.compensate import corrected_child, gaps_of, store_moments
from budwood.subnet.extract import child_config, child_state, extract_child, resolve
from budwood.subnet.ordering import OrderedTeacher, order_teacher
from budwood.subnet.settings import Compensation, Ordering

NUM_TOKENS = 256
NUM_COUNTS = 20_000
SETTINGS = Compensation()
READ = (3, 512)
"""Sequences that a candidate reads in a stage of a race, and their length."""


def architecture_of(sizes: dict[str, Any], vocab_size: int) -> Architecture:
    """Return a Llama of equal layers from sizes in Hugging Face's words."""
    layer = LayerSpec(
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes["num_key_value_heads"],
        head_dim=sizes["head_dim"],
        intermediate_size=sizes["intermediate_size"],
    )
    return Architecture(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=sizes["hidden_size"],
        tie_word_embeddings=True,
        layers=(layer,) * sizes["num_hidden_layers"],
    )


def random_teacher(architecture: Architecture, context: int) -> OrderedTeacher:
    """Return a teacher with random weights, ordered by their magnitude, in memory."""
    base = {
        "vocab_size": architecture.vocab_size,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    }
    model = random_model(base, architecture, seed=0)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ordered = order_teacher(weights, model.config.to_dict(), architecture, Ordering(ordering="magnitude"))
    return ordered.materialise(Compute(torch.device("cpu"), "float32"))


def rebuild(teacher: OrderedTeacher, selection: Selection) -> PreTrainedModel:
    """Build a candidate as a user of transformers would: the whole model again, then copies of the weights."""
    cut = resolve(teacher, selection)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(child_config(teacher, cut))
    model.load_state_dict(child_state(teacher, cut), strict=False)
    return model


def processor_seconds(call: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def median_seconds(calls: list[Callable[[], object]], num_repeats: int) -> list[float]:
    """Return the median processor time of every call, over rounds that make each once, after one round untimed."""
    rounds = [[processor_seconds(call) for call in calls] for _ in range(num_repeats + 1)]
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def corrected_figures(
    teacher: OrderedTeacher, selections: Sequence[Selection], activate: Sequence[float], num_repeats: int
) -> dict[str, float]:
    """Return what it takes to correct candidates, alone and with a reading, beside the seconds of making them plain."""
    cuts = [resolve(teacher, selection) for selection in selections]
    gaps = sorted({gap for cut in cuts for gap in gaps_of(cut.kept_layers, len(teacher.ranking))})
    generator, (num_sequences, length) = torch.Generator().manual_seed(0), READ
    windows = torch.randint(0, teacher.architecture.vocab_size, (num_sequences, length + 1), generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        moments = store_moments(teacher, windows[:, :-1], SETTINGS, Path(folder), gaps=gaps)
        corrected, readings = (
            median_seconds([partial(act, cut) for cut in cuts], num_repeats)
            for act in (
                lambda cut: corrected_child(teacher, cut, SETTINGS, moments),
                lambda cut: sequence_losses(corrected_child(teacher, cut, SETTINGS, moments), windows),
            )
        )
    rows = list(zip(activate, corrected, readings, strict=True))
    return {
        "corrected_ms": 1000 * statistics.median(corrected),
        "corrected_ratio": statistics.median(made / plain for plain, made, _ in rows),
        "corrected_reading_ratio": statistics.median(read / (read - made + plain) for plain, made, read in rows),
    }


def counts_per_second(teacher: Architecture) -> float:
    """Return how many parameter counts of layer-wise candidates are made in a second."""
    space = SearchSpace(teacher=teacher, layerwise=True)
    population = draw_many(space, NUM_COUNTS, np.random.default_rng(0)).population
    return NUM_COUNTS / median_seconds([lambda: population_parameters(population, teacher)], 5)[0]


def main() -> None:
    """Measure all and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-repeats", type=int, default=5)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    python = make_environment("whittle", WHITTLE_INSTALLS, arguments.cache_dir)
    options = ("--num-tokens", str(NUM_TOKENS), "--num-repeats", str(arguments.num_repeats))
    peer = run_script(python, Path(__file__).with_name("whittle_activate.py"), options)

    architecture = architecture_of(peer["teacher"], peer["teacher"]["vocab_size"])
    teacher = random_teacher(architecture, peer["teacher"]["max_position_embeddings"])
    selections = [Selection.prefix(architecture_of(sizes, architecture.vocab_size)) for sizes in peer["subnets"]]
    ids = torch.randint(0, architecture.vocab_size, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(0))
    children = [own_weights(extract_child(teacher, selection)) for selection in selections]
    with torch.no_grad():
        activate = median_seconds(
            [lambda s=selection: extract_child(teacher, s) for selection in selections], arguments.num_repeats
        )
        forward = median_seconds(
            [lambda c=child: c(input_ids=ids, use_cache=False) for child in children], arguments.num_repeats
        )
        rebuilds = median_seconds(
            [lambda s=selection: rebuild(teacher, s) for selection in selections], arguments.num_repeats
        )
    for row in zip(selections, activate, rebuilds, peer["extract_cpu_seconds"], forward, strict=True):
        sizes = row[0].architecture(architecture).describe()
        sys.stderr.write(f"{sizes}: activate {row[1]:.4f} s, rebuild {row[2]:.3f} s, whittle {row[3]:.3f} s\n")
    ratios = [ours / theirs for ours, theirs in zip(forward, peer["forward_cpu_seconds"], strict=True)]
    figures = {
        "activate_ms": 1000 * statistics.median(activate),
        **corrected_figures(teacher, selections, activate, arguments.num_repeats),
        "whittle_extract_ms": 1000 * statistics.median(peer["extract_cpu_seconds"]),
        "hf_rebuild_ms": 1000 * statistics.median(rebuilds),
        "forward_ratio": statistics.median(ratios),
        "counts_per_second": counts_per_second(architecture),
    }
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
