"""How well times of a token and of a prompt are predicted, by which bins of time are searched.

A speed is fitted to eight models of up to half of SmolLM2-135M's layers, as `budwood.measure_serving_speed` does; then
models of other sizes are timed, and their times compared with the predicted ones. Weights are random, times are the
least of five rounds in transformers.

Usage: python benchmarks/predict.py [--num-threads 1] [--prompt-tokens 256]; half a minute.

Rows of a Markdown table have predicted over measured times. Last line: a JSON object with them by model, `token` and
`prompt`, `largest_error` among these and `largest_fitted_error` among the models that were fitted.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from cuts import Shape, sized
from quickstart import CACHE_DIR, open_quickstart

import budwood

SHAPES: tuple[Shape, ...] = ((576, 3, 64, 992, 16), (416, 2, 64, 624, 12), (288, 3, 32, 512, 30))
"""Beside the teacher."""


def main() -> None:
    """Measure, and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    teacher = open_quickstart(arguments.cache_dir).teacher
    settings = budwood.EfficiencySettings(prompt_tokens=arguments.prompt_tokens, new_tokens=16)
    fitted = budwood.measure_serving_speed(teacher, settings=settings)
    models = [teacher.architecture, *(sized(teacher.architecture, shape) for shape in SHAPES)]
    sys.stdout.write("| model | token | prompt |\n|---|--:|--:|\n")
    ratios: dict[str, dict[str, float]] = {}
    for timing in budwood.measure_serving_speed(teacher, models, settings=settings).timings:
        name = f"{timing.architecture.num_hidden_layers} layers x {timing.architecture.hidden_size}"
        kind = "token" if timing.num_tokens == 1 else "prompt"
        ratios.setdefault(name, {})[kind] = round(timing.predicted(fitted.speed) / timing.seconds, 2)
    for name, each in ratios.items():
        sys.stdout.write(f"| {name} | {each['token']} | {each['prompt']} |\n")
    errors = [abs(ratio - 1) for each in ratios.values() for ratio in each.values()]
    figures = {"largest_error": round(max(errors), 2), "largest_fitted_error": round(fitted.largest_error, 2)}
    sys.stdout.write(json.dumps(ratios | figures) + "\n")


if __name__ == "__main__":
    main()
