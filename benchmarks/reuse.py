"""How much faster candidates are read that share their first layers.

All single-layer changes of one parent, as a layer-wise search makes them around its best candidate: in every layer in
turn, a quarter of the neurons is left out. They are cut from SmolLM2-135M, from parents of half, three quarters and all
of its size, and read four Wikipedia sequences of 256 tokens; with reuse and without, in turns, process time on one
thread. Losses must be equal to the last bit.

Usage: python benchmarks/reuse.py [--num-rounds 3]; about ten minutes on one core.

Last line: a JSON object with `speedup` by parent, the median over rounds; the head, which every candidate runs, weighs
most in small ones.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from cuts import CASES, sized
from quickstart import CACHE_DIR, open_quickstart, windows

from budwood.arch.selection import Selection
from budwood.subnet.evaluate import SubnetEvaluator

NUM_SEQUENCES = 4


def single_layer_changes(parent: Selection) -> list[Selection]:
    """Return, for every layer, a candidate that lacks a quarter of the parent's neurons there."""
    layers = parent.layers
    narrowed = [replace(layer, neurons=range(len(layer.neurons) * 3 // 4)) for layer in layers]
    changed = [(*layers[:place], narrow, *layers[place + 1 :]) for place, narrow in enumerate(narrowed)]
    return [replace(parent, layers=kept) for kept in changed]


def seconds(evaluator: SubnetEvaluator, candidates: list[Selection]) -> tuple[float, list[list[float]]]:
    """Return the process time of reading candidates, and their losses."""
    started = time.process_time()
    made = dict(evaluator(candidates))
    return time.process_time() - started, [list(made[place].sequence_losses) for place in range(len(candidates))]


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = open_quickstart(arguments.cache_dir)
    teacher = study.ordered().materialise(study.materials.compute)
    evaluator = SubnetEvaluator(teacher=teacher, windows=windows(study, "selection", NUM_SEQUENCES))
    case = CASES["smollm2_135m"]
    shapes = {"handpicked": case.handpicked, "three_quarter": case.handpicked_three_quarter}
    parents = {name: sized(teacher.architecture, shape) for name, shape in shapes.items()}
    speedups = {}
    for name, sizes in {**parents, "whole": teacher.architecture}.items():
        candidates, ratios = single_layer_changes(Selection.prefix(sizes)), []
        for _ in range(arguments.num_rounds):
            alone, expected = seconds(replace(evaluator, reuse=False), candidates)
            shared, losses = seconds(evaluator, candidates)
            assert losses == expected, "reuse changed a loss"
            ratios.append(alone / shared)
            sys.stderr.write(f"{name}: {len(candidates)} candidates, {alone:.1f} s alone, {shared:.1f} s shared\n")
        speedups[name] = round(statistics.median(ratios), 2)
    sys.stdout.write(json.dumps({"speedup": speedups}) + "\n")


if __name__ == "__main__":
    main()
