"""What a cut is worth: the loss of sub-networks of a teacher, cut in different ways, before any training.

Eight random half-size shapes of SmolLM2-135M, drawn uniformly until they lie in the bin of 63.9M to 70.6M parameters,
are cut in twelve ways and measured on the same Wikipedia text; so are two hand-picked shapes, of half and of three
quarters of the teacher. Of Gemma 3 270M, which is mostly vocabulary, the parameters outside the embedding count: random
shapes of half and of three quarters of these are drawn (47.7M to 52.7M, and 71.5M to 79.0M). All losses are nats per
token; guessing uniformly costs 10.8, for Gemma 12.5. From `layers` on, each way adds to the one before it:

* `prefix`: the first of everything and rebuilt rotary embeddings, as the paper cuts; `random`: random indices instead;
* `layers`: the best layers instead of the first; `sorted`: the best channels, heads and neurons too; `rotary`: the best
  rotary pairs at their own frequencies; `gain`: attention scores mended; `ordered`: values in their singular basis;
* `norms`: cut norms mended; `pairs`: every group its own rotary pairs; `least_squares`: removed entries predicted from
  kept ones; `compensated`: dropped layers replaced by linear maps; `refitted`: layers refitted to the teacher's stream,
  which has no form for Gemma.

Usage: python benchmarks/cuts.py [--teacher smollm2_135m] [--num-shapes 8] [--num-windows 8] [--ways ...]; about half an
hour on two cores for SmolLM2; the other teacher is `gemma3_270m`, whose packages `requirements-gemma3_270m.txt` lists.
`--num-shapes 18 --ways` with no way compares only `prefix, random, ordered, compensated`, on as many shapes as it
takes to see how they rank them, and `--ways refitted` refits them too.

Last line: a JSON object with `teacher, num_shapes, teacher_nats, prefix_nats, random_nats, ordered_nats,
compensated_nats, handpicked_nats, three_quarter_nats`, `steps_nats` with the mean of every way, and Spearman's
`rank_correlations` between the main ones; with `three_quarter_steps_nats` where such shapes are drawn, and with
`handpicked_refitted_nats` and `three_quarter_refitted_nats` where shapes are refitted.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from quickstart import CACHE_DIR, ORDERED, PAPER_ORDER, TEACHERS, TeacherName, calibration, open_quickstart, windows
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from budwood import Compensation, Ordering, Study
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.sampling import choose_entries
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.subnet.compensate import cut_out
from budwood.subnet.extract import extract_child
from budwood.subnet.flops import refits
from budwood.subnet.ordering import OrderedTeacher

HALF = ParameterBin(63_900_000, 70_600_000)
MAIN_WAYS = ("prefix", "random", "ordered", "compensated")
STEPS = ("layers", "sorted", "rotary", "gain", "norms", "pairs", "least_squares", "refitted")
REFIT = Compensation(refit=True)
MIN_WIDTH = 64
"""Smallest hidden size and MLP width that shapes are drawn with."""

Shape = tuple[int, int, int, int, int]
"""Hidden size, groups, head dimension, neurons, layers."""


@dataclass(frozen=True)
class Case:
    """What is cut out of a teacher."""

    half: ParameterBin
    three_quarter: ParameterBin
    handpicked: Shape
    """Lies in `half`."""
    handpicked_three_quarter: Shape
    counts_embedding: bool = True
    draws_three_quarter: bool = False

    def size(self, architecture: Architecture) -> int:
        """Return the number of parameters that count."""
        embedding = architecture.vocab_size * architecture.hidden_size
        return num_parameters(architecture) - (0 if self.counts_embedding else embedding)


CASES: Mapping[TeacherName, Case] = {
    "smollm2_135m": Case(
        half=HALF,
        three_quarter=ParameterBin(95_800_000, 105_900_000),
        handpicked=(480, 3, 64, 1024, 19),
        handpicked_three_quarter=(576, 3, 64, 1195, 25),
    ),
    "gemma3_270m": Case(
        half=ParameterBin(47_700_000, 52_700_000),
        three_quarter=ParameterBin(71_500_000, 79_000_000),
        handpicked=(640, 1, 256, 1280, 12),
        handpicked_three_quarter=(640, 1, 256, 1728, 15),
        counts_embedding=False,
        draws_three_quarter=True,
    ),
}


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


def draw_shapes(teacher: Architecture, count: int, parameter_bin: ParameterBin, case: Case) -> Iterator[Shape]:
    """Yield shapes inside a bin, every size drawn uniformly."""
    layer, rng = teacher.layers[0], random.Random(1)  # noqa: S311 - no secret
    while count:
        shape = (
            rng.randint(MIN_WIDTH, teacher.hidden_size),
            rng.randint(1, layer.num_key_value_heads),
            rng.choice(range(4, layer.head_dim + 1, 2)),
            rng.randint(MIN_WIDTH, layer.intermediate_size),
            rng.randint(1, teacher.num_hidden_layers),
        )
        if case.size(sized(teacher, shape)) in parameter_bin:
            count -= 1
            yield shape


@dataclass(frozen=True)
class Cutter:
    """Cuts shapes in every way; the teacher is ordered when a way first begins with it."""

    study: Study

    @cached_property
    def calibration(self) -> Tensor:
        """Token ids that corrections are made on."""
        return calibration(self.study)

    @cached_property
    def native(self) -> OrderedTeacher:
        """The teacher's own order."""
        return self.order(PAPER_ORDER)

    @cached_property
    def sorted(self) -> OrderedTeacher:
        """Channels, heads and neurons are sorted."""
        return self.order(Ordering(rope="rebuild", score_gain=False, singular_values=False))

    @cached_property
    def gain(self) -> OrderedTeacher:
        """Rotary pairs and attention scores keep what they were too."""
        return self.order(Ordering(singular_values=False))

    @cached_property
    def ordered(self) -> OrderedTeacher:
        """The product's order."""
        return self.order(ORDERED)

    def order(self, ordering: Ordering) -> OrderedTeacher:
        """Return the teacher in an order, in memory."""
        return self.study.ordered(ordering).materialise(Compute(torch.device("cpu"), "float32"))

    def ways(self, shape: Shape) -> dict[str, Callable[[], PreTrainedModel]]:
        """Return what makes the child of every way."""
        prefix = Selection.prefix(sized(self.native.architecture, shape))
        pairs = Compensation(neurons=False, channels=False, heads=False, layers=False)
        return {
            "prefix": lambda: extract_child(self.native, prefix),
            "random": lambda: extract_child(self.native, self.random_indices(shape)),
            "layers": lambda: extract_child(replace(self.native, ranking=self.ordered.ranking), prefix),
            "sorted": lambda: extract_child(self.sorted, prefix),
            "rotary": lambda: extract_child(replace(self.sorted, rope="preserve"), prefix),
            "gain": lambda: extract_child(self.gain, prefix),
            "ordered": lambda: extract_child(self.ordered, prefix),
            "norms": lambda: self.compensate(prefix, pairs.model_copy(update={"pairs": False})),
            "pairs": lambda: self.compensate(prefix, pairs),
            "least_squares": lambda: self.compensate(prefix, Compensation(layers=False)),
            "compensated": lambda: self.compensate(prefix, Compensation()),
            "refitted": lambda: self.compensate(prefix, REFIT),
        }

    def random_indices(self, shape: Shape) -> Selection:
        """Return the paper's fine cut: random indices of every axis, the same in all layers."""
        space = SearchSpace(teacher=self.native.ranked, granularity="fine", layerwise=False)
        rng = np.random.default_rng(0)
        ranks = rng.permutation(self.native.architecture.num_hidden_layers)
        return choose_entries(space, sized(self.native.architecture, shape), ranks, rng)

    def compensate(self, selection: Selection, settings: Compensation) -> PreTrainedModel:
        """Return a corrected child of the ordered teacher."""
        return cut_out(self.ordered, selection, self.calibration, settings).assemble()


def loss(model: PreTrainedModel, text: Tensor) -> float:
    """Return the mean loss per token, nats."""
    return float(sequence_losses(model, text).mean())


def main() -> None:
    """Cut, measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=TEACHERS, default="smollm2_135m")
    parser.add_argument("--num-shapes", type=int, default=8)
    parser.add_argument("--num-windows", type=int, default=8)
    parser.add_argument("--ways", nargs="*", default=STEPS, choices=STEPS, help="beside the four main ones")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    study = open_quickstart(arguments.cache_dir, arguments.teacher)
    case, ways = CASES[arguments.teacher], {*MAIN_WAYS, *arguments.ways}
    # Two splits that nothing was chosen on; one alone is further from the mean difficulty of the text.
    text = torch.cat([windows(study, split, arguments.num_windows // 2) for split in ("validation", "choice")])
    cutter = Cutter(study)
    teacher = cutter.native.architecture
    if not refits(teacher, sized(teacher, case.handpicked), REFIT):
        ways -= {"refitted"}

    def measure(parameter_bin: ParameterBin) -> dict[str, list[float]]:
        by_way: dict[str, list[float]] = {}
        for shape in draw_shapes(teacher, arguments.num_shapes, parameter_bin, case):
            chosen = {way: cut for way, cut in cutter.ways(shape).items() if way in ways}
            losses = {way: loss(cut(), text) for way, cut in chosen.items()}
            for way, value in losses.items():
                by_way.setdefault(way, []).append(value)
            sys.stderr.write(f"{shape}: " + ", ".join(f"{way} {value:.2f}" for way, value in losses.items()) + "\n")
        return by_way

    def pick(shape: Shape, parameter_bin: ParameterBin, settings: Compensation) -> float:
        architecture = sized(teacher, shape)
        assert case.size(architecture) in parameter_bin, f"{shape} lies outside {parameter_bin}"
        return round(loss(cutter.compensate(Selection.prefix(architecture), settings), text), 3)

    by_way = measure(case.half)
    steps = means(by_way)
    figures: dict[str, object] = {
        "teacher": arguments.teacher,
        "num_shapes": arguments.num_shapes,
        "teacher_nats": round(loss(study.teacher.load_model(torch.float32), text), 3),
        **{f"{way}_nats": steps[way] for way in MAIN_WAYS},
        "handpicked_nats": pick(case.handpicked, case.half, Compensation()),
        "three_quarter_nats": pick(case.handpicked_three_quarter, case.three_quarter, Compensation()),
        "steps_nats": steps,
        "rank_correlations": rank_correlations(by_way),
    }
    if case.draws_three_quarter:
        figures["three_quarter_steps_nats"] = means(measure(case.three_quarter))
    if "refitted" in ways:
        figures["handpicked_refitted_nats"] = pick(case.handpicked, case.half, REFIT)
        three_quarter = pick(case.handpicked_three_quarter, case.three_quarter, REFIT)
        figures["three_quarter_refitted_nats"] = three_quarter
    sys.stdout.write(json.dumps(figures) + "\n")


def means(by_way: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean loss of every way."""
    return {way: round(statistics.mean(values), 3) for way, values in by_way.items()}


def rank_correlations(by_way: dict[str, list[float]]) -> dict[str, float]:
    """Return Spearman's correlation of the losses of all shapes, for every pair of the main ways."""
    return {
        f"{first}~{second}": round(float(spearmanr(by_way[first], by_way[second]).statistic), 2)
        for first, second in combinations(MAIN_WAYS, 2)
    }


if __name__ == "__main__":
    main()
