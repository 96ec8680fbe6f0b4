"""What a cut is worth: the loss of sub-networks of SmolLM2-135M, cut in different ways, before any training.

Eight random half-size shapes, drawn uniformly until they lie in the bin of 63.9M to 70.6M parameters, are cut in twelve
ways and measured on the same Wikipedia text; so are two hand-picked shapes, of half and of three quarters of the
teacher. All losses are nats per token; guessing uniformly costs 10.8. From `layers` on, each way adds to the one
before it:

* `prefix`: the first of everything and rebuilt rotary embeddings, as the paper cuts; `random`: random indices instead;
* `layers`: the best layers instead of the first; `sorted`: the best channels, heads and neurons too; `rotary`: the best
  rotary pairs at their own frequencies; `gain`: attention scores mended; `ordered`: values in their singular basis;
* `norms`: cut norms mended; `pairs`: every group its own rotary pairs; `least_squares`: removed entries predicted from
  kept ones; `maps`: dropped layers replaced by linear maps, as a search compares candidates; `compensated`: layers
  refitted to the teacher's stream, as finalists are exported.

Usage: python benchmarks/cuts.py [--num-shapes 8] [--num-windows 8] [--ways ...]; about half an hour on two cores.
`--num-shapes 18 --ways` with no way compares only `prefix, random, ordered, compensated`, on as many shapes as it
takes to see how they rank them.

Last line: a JSON object with `teacher_nats, prefix_nats, random_nats, ordered_nats, compensated_nats, handpicked_nats,
three_quarter_nats`, `steps_nats` with the mean of every way, and Spearman's `rank_correlations` between the main ones.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from quickstart import CACHE_DIR, ORDERED, PAPER_ORDER, calibration, open_quickstart, windows
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from budwood import Compensation, Ordering, Study
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.sampling import fill
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.subnet.compensate import compensate
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import OrderedTeacher

HALF = ParameterBin(63_900_000, 70_600_000)
HANDPICKED = {
    "handpicked": ((480, 3, 64, 1024, 19), HALF),
    "three_quarter": ((576, 3, 64, 1195, 25), ParameterBin(95_800_000, 105_900_000)),
}
"""Shapes picked by hand, and the bins that they lie in."""
MAIN_WAYS = ("prefix", "random", "ordered", "compensated")
STEPS = ("layers", "sorted", "rotary", "gain", "norms", "pairs", "least_squares", "maps")
MIN_WIDTH = 64
"""Smallest hidden size and MLP width that shapes are drawn with."""

Shape = tuple[int, int, int, int, int]
"""Hidden size, groups, head dimension, neurons, layers."""


def sized(teacher: Architecture, shape: Shape) -> Architecture:
    """Return the sizes of a shape; every group keeps all of its queries."""
    hidden, groups, head_dim, neurons, depth = shape
    layer = LayerSpec(
        num_attention_heads=groups * teacher.layers[0].heads_per_group,
        num_key_value_heads=groups,
        head_dim=head_dim,
        intermediate_size=neurons,
    )
    return replace(teacher, hidden_size=hidden, layers=(layer,) * depth)


def draw_shapes(teacher: Architecture, count: int, seed: int = 1) -> Iterator[Shape]:
    """Yield shapes inside the half-size bin, every size drawn uniformly."""
    layer, rng = teacher.layers[0], random.Random(seed)  # noqa: S311 - no secret
    while count:
        shape = (
            rng.randint(MIN_WIDTH, teacher.hidden_size),
            rng.randint(1, layer.num_key_value_heads),
            rng.choice(range(4, layer.head_dim + 1, 2)),
            rng.randint(MIN_WIDTH, layer.intermediate_size),
            rng.randint(1, teacher.num_hidden_layers),
        )
        if num_parameters(sized(teacher, shape)) in HALF:
            count -= 1
            yield shape


class Cutter:
    """Cuts shapes in every way."""

    def __init__(self, study: Study) -> None:
        """Order the teacher in all the ways that cuts begin with."""
        self.calibration = calibration(study)

        def order(ordering: Ordering) -> OrderedTeacher:
            return study.ordered(ordering).materialise(Compute(torch.device("cpu"), "float32"))

        self.native = order(PAPER_ORDER)
        self.sorted = order(Ordering(rope="rebuild", score_gain=False, singular_values=False))
        self.rotary = replace(self.sorted, rope="preserve")
        self.gain = order(Ordering(singular_values=False))
        self.ordered = order(ORDERED)

    def ways(self, shape: Shape) -> dict[str, Callable[[], PreTrainedModel]]:
        """Return what makes the child of every way."""
        prefix = Selection.prefix(sized(self.native.architecture, shape))
        best_layers = replace(self.native, ranking=self.ordered.ranking)
        pairs = Compensation(neurons=False, channels=False, heads=False, layers=False, refit=False)
        return {
            "prefix": lambda: extract_child(self.native, prefix),
            "random": lambda: extract_child(self.native, self.random_indices(shape)),
            "layers": lambda: extract_child(best_layers, prefix),
            "sorted": lambda: extract_child(self.sorted, prefix),
            "rotary": lambda: extract_child(self.rotary, prefix),
            "gain": lambda: extract_child(self.gain, prefix),
            "ordered": lambda: extract_child(self.ordered, prefix),
            "norms": lambda: self.compensate(prefix, pairs.model_copy(update={"pairs": False})),
            "pairs": lambda: self.compensate(prefix, pairs),
            "least_squares": lambda: self.compensate(prefix, Compensation(layers=False, refit=False)),
            "maps": lambda: self.compensate(prefix, Compensation(refit=False)),
            "compensated": lambda: self.compensate(prefix, Compensation()),
        }

    def random_indices(self, shape: Shape) -> Selection:
        """Return the paper's fine cut: random indices of every axis, the same in all layers."""
        space = SearchSpace(teacher=self.native.ranked, granularity="fine", layerwise=False)
        rng = np.random.default_rng(0)
        ranks = rng.permutation(self.native.architecture.num_hidden_layers)
        return fill(space, sized(self.native.architecture, shape), ranks, rng)

    def compensate(self, selection: Selection, settings: Compensation) -> PreTrainedModel:
        """Return a corrected child of the ordered teacher."""
        return compensate(self.ordered, selection, self.calibration, settings)


def loss(model: PreTrainedModel, text: Tensor) -> float:
    """Return the mean loss per token, nats."""
    return float(sequence_losses(model, text).mean())


def main() -> None:
    """Cut, measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-shapes", type=int, default=8)
    parser.add_argument("--num-windows", type=int, default=8)
    parser.add_argument("--ways", nargs="*", default=STEPS, choices=STEPS, help="beside the four main ones")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    study = open_quickstart(arguments.cache_dir)
    # Two splits that nothing was chosen on; one alone is further from the mean difficulty of the text.
    text = torch.cat([windows(study, split, arguments.num_windows // 2) for split in ("validation", "choice")])
    cutter = Cutter(study)
    teacher = cutter.native.architecture
    by_way: dict[str, list[float]] = {}
    for shape in draw_shapes(teacher, arguments.num_shapes):
        losses = {
            way: loss(cut(), text) for way, cut in cutter.ways(shape).items() if way in {*MAIN_WAYS, *arguments.ways}
        }
        for way, value in losses.items():
            by_way.setdefault(way, []).append(value)
        sys.stderr.write(f"{shape}: " + ", ".join(f"{way} {value:.2f}" for way, value in losses.items()) + "\n")
    steps = {way: statistics.mean(values) for way, values in by_way.items()}
    figures = {
        "teacher_nats": loss(study.teacher.load_model(torch.float32), text),
        **{f"{way}_nats": steps[way] for way in MAIN_WAYS},
        **{
            f"{name}_nats": loss(cutter.compensate(handpicked(teacher, *shape), Compensation()), text)
            for name, shape in HANDPICKED.items()
        },
    }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    by_step = {"steps_nats": {way: round(value, 3) for way, value in steps.items()}}
    sys.stdout.write(json.dumps(rounded | by_step | {"rank_correlations": rank_correlations(by_way)}) + "\n")


def rank_correlations(by_way: dict[str, list[float]]) -> dict[str, float]:
    """Return Spearman's correlation of the losses of all shapes, for every pair of the main ways."""
    return {
        f"{first}~{second}": round(float(spearmanr(by_way[first], by_way[second]).statistic), 2)
        for first, second in combinations(MAIN_WAYS, 2)
    }


def handpicked(teacher: Architecture, shape: Shape, parameter_bin: ParameterBin) -> Selection:
    """Return a shape that must lie in a bin."""
    architecture = sized(teacher, shape)
    assert num_parameters(architecture) in parameter_bin, f"{shape} lies outside {parameter_bin}"
    return Selection.prefix(architecture)


if __name__ == "__main__":
    main()
