"""What a search finds for what it spends: ours, the paper's, whittle 0.6.0's random search, and random draws.

All look for the best sub-network of SmolLM2-135M with half of its parameters (63.9M to 70.6M) and equal layers, on
eight Wikipedia sequences of 256 tokens; the winner is measured on 32 others, in float32, before any training:

* `ours`: evolution of ordered cuts, raced; most mutants move budget between sizes; three finalists are corrected
  and compared on text of their own;
* `paper`: Algorithm 1 on the teacher's own order with rebuilt rotary embeddings, 50 + 20 x 50 candidates that read all;
* `whittle`: its random search, with as many evaluation tokens as ours, in an environment of its own;
* `random`: random draws of our cuts with as many tokens as ours, and the same finals.

Usage: python benchmarks/search.py [--seeds 0 1 2]. Whatever is finished is kept, candidate by candidate. The paper's
search takes half an hour a seed on a core that multiplies bfloat16, an hour and more on others; all the rest together
takes a quarter of that.

Last line: a JSON object with `ours_nats, paper_nats, whittle_nats, random_nats` (a list over seeds each), and
`flops_ratio_to_paper`: what the paper's search spends over what ours has spent, calibration included, at the end of the
generation whose best plain cut is as good on the held-out text as the paper's winner; the smallest over seeds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuts import HALF
from peers import CACHE_DIR, WHITTLE_SEARCH_INSTALLS, make_environment, run_script
from quickstart import LENGTH, Quickstart, open_quickstart

from budwood.arch.count import forward_flops_per_token
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import SearchRecord
from budwood.search.choice import choose
from budwood.search.race import RaceSettings
from budwood.search.run import run_search
from budwood.search.strategy import Evolution, EvolutionSettings
from budwood.subnet.checkpoint import load_model
from budwood.subnet.compensate import Compensation, cut_out
from budwood.subnet.device import Compute, choose_compute
from budwood.subnet.evaluate import SubnetEvaluator, sequence_losses
from budwood.subnet.ordering import OrderedTeacher, Ordering

ARMS = ("ours", "random", "whittle", "paper")
NUM_SEQUENCES, NUM_CHOICE, NUM_HELDOUT, NUM_FINALISTS = 8, 16, 32, 3
EXACT = Compute(torch.device("cpu"), "float32")

OURS = EvolutionSettings(
    population=16,
    epochs=11,
    num_elites=4,
    num_mutants=8,
    num_crossovers=2,
    num_randoms=6,
    probability=1.0,
    level_switch=0.5,
    screening=50,
)
PAPER = EvolutionSettings(epochs=20, sampling="rejection", constraint="rejection")
RACE, ALL = RaceSettings(stages=(2, 4, NUM_SEQUENCES)), RaceSettings(stages=(NUM_SEQUENCES,))

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """The teacher, the text, and where results are kept."""

    quickstart: Quickstart
    folder: Path
    cache_dir: Path

    def heldout(self, teacher: OrderedTeacher, selection: Selection, settings: Compensation | None = None) -> float:
        """Return the loss of a cut on the held-out text, in float32."""
        child = cut_out(teacher.materialise(EXACT), selection, self.quickstart.calibration, settings)
        return float(sequence_losses(child, self.quickstart.windows("validation", NUM_HELDOUT)).mean())

    def search(
        self, name: str, teacher: OrderedTeacher, settings: EvolutionSettings, stages: RaceSettings
    ) -> tuple[Evolution, list[SearchRecord], list[tuple[float, Selection]]]:
        """Run a search; also return what was spent and the best candidate after every generation."""
        loaded = teacher.materialise(choose_compute())
        evaluate = SubnetEvaluator(teacher=loaded, windows=self.quickstart.windows("selection", NUM_SEQUENCES))
        strategy = Evolution(SearchSpace(teacher=teacher.ranked, layerwise=False), HALF, settings)
        steps: list[tuple[float, Selection]] = []

        def after_generation(search: Evolution, records: Sequence[SearchRecord]) -> None:
            steps.append((sum(record.flops for record in records), search.elites[0][1]))

        history_file = self.folder / f"{name}-{settings.seed}.jsonl"
        return strategy, run_search(strategy, evaluate, history_file, stages, after_generation), steps


def run_paper(bench: Bench, seed: int) -> Result:
    """Search as the paper does."""
    teacher = bench.quickstart.ordered(Ordering(by="native", rope="rebuild"))
    strategy, records, _ = bench.search("paper", teacher, replace(PAPER, seed=seed), ALL)
    return {"nats": bench.heldout(teacher, strategy.elites[0][1]), **_spent(records)}


def run_ours(bench: Bench, seed: int) -> Result:
    """Race ordered cuts, and correct and compare the finalists."""
    teacher = bench.quickstart.ordered()
    strategy, records, steps = bench.search("ours", teacher, replace(OURS, seed=seed), RACE)
    plain = [{"flops": flops, "nats": bench.heldout(teacher, best)} for flops, best in _changes(steps)]
    return _finals(bench, teacher, strategy) | _spent(records) | {"steps": plain}


def run_random(bench: Bench, seed: int) -> Result:
    """Draw as many ordered cuts as our search's tokens allow."""
    num_draws = _tokens_of_ours(bench, seed) // (NUM_SEQUENCES * LENGTH)
    settings = EvolutionSettings(strategy="random", population=num_draws, epochs=0, num_elites=4, seed=seed)
    teacher = bench.quickstart.ordered()
    strategy, records, _ = bench.search("random", teacher, settings, ALL)
    return _finals(bench, teacher, strategy) | _spent(records)


def run_whittle(bench: Bench, seed: int) -> Result:
    """Run whittle's random search on the same text, in its own environment."""
    python = make_environment("whittle-search", WHITTLE_SEARCH_INSTALLS, bench.cache_dir)
    texts = {"selection": ("selection", NUM_SEQUENCES), "heldout": ("validation", NUM_HELDOUT)}
    windows = {name: bench.quickstart.windows(*split) for name, split in texts.items()}
    for name, text in windows.items():
        np.save(bench.folder / f"{name}.npy", text.numpy())
    teacher = load_model(bench.quickstart.teacher, torch.float32)
    arguments = {
        "teacher": bench.quickstart.teacher,
        "teacher-nats": float(sequence_losses(teacher, windows["heldout"]).mean()),
        **{name: bench.folder / f"{name}.npy" for name in windows},
        "tokens": _tokens_of_ours(bench, seed),
        "seed": seed,
        "num-threads": torch.get_num_threads(),
        "dtype": choose_compute().precision,
        "history": bench.folder / f"whittle-{seed}.jsonl",
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    script = Path(__file__).with_name("whittle_search.py")
    return run_script(python, script, [*options, "--bin", str(HALF.low), str(HALF.high)])


def _finals(bench: Bench, teacher: OrderedTeacher, strategy: Evolution) -> Result:
    """Correct the best candidates, choose among them on text of their own, and measure the winner."""
    finalists = [selection for _, selection in strategy.elites[:NUM_FINALISTS]]
    exact, text = teacher.materialise(EXACT), bench.quickstart.windows("choice", NUM_CHOICE)
    children = (cut_out(exact, finalist, bench.quickstart.calibration, Compensation()) for finalist in finalists)
    winner = finalists[choose([sequence_losses(child, text).tolist() for child in children]).winner]
    flops = forward_flops_per_token(teacher.architecture, context=LENGTH)
    return {
        "nats": bench.heldout(teacher, winner, Compensation()),
        "plain_nats": bench.heldout(teacher, winner),
        "calibration_flops": bench.quickstart.calibration.numel() * flops,
        "winner": winner.architecture(teacher.architecture).describe(),
    }


def _spent(records: Sequence[SearchRecord]) -> Result:
    return {
        "evaluations": len(records),
        "tokens": sum(record.tokens for record in records),
        "flops": sum(record.flops for record in records),
        "seconds": sum(record.seconds for record in records),
    }


def _changes(steps: Sequence[tuple[float, Selection]]) -> list[tuple[float, Selection]]:
    """Return the generations that brought a new best candidate."""
    kept = [place for place, (_, best) in enumerate(steps) if place == 0 or best != steps[place - 1][1]]
    return [steps[place] for place in kept]


def _tokens_of_ours(bench: Bench, seed: int) -> int:
    return int(json.loads((bench.folder / f"ours-{seed}.json").read_text())["tokens"])


def flops_ratio(ours: Result, paper: Result) -> float:
    """Return what the paper's search spends over what ours has spent when it is as good; 0 where it never is."""
    reached = [step["flops"] for step in ours["steps"] if step["nats"] <= paper["nats"]]
    return paper["flops"] / (reached[0] + ours["calibration_flops"]) if reached else 0.0


def main() -> None:
    """Run what is missing and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    folder = arguments.cache_dir / "search"
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(open_quickstart(arguments.cache_dir), folder, arguments.cache_dir)
    runs = {"ours": run_ours, "random": run_random, "whittle": run_whittle, "paper": run_paper}
    results: dict[tuple[str, int], Result] = {}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            file = folder / f"{arm}-{seed}.json"
            if not file.is_file():
                file.write_text(json.dumps(runs[arm](bench, seed)))
            results[arm, seed] = json.loads(file.read_text())
            sys.stderr.write(f"{arm} {seed}: {results[arm, seed]}\n")
    figures: Result = {
        f"{arm}_nats": [round(results[arm, seed]["nats"], 3) for seed in arguments.seeds] for arm in arguments.arms
    }
    if {"ours", "paper"} <= set(arguments.arms):
        ratios = [flops_ratio(results["ours", seed], results["paper", seed]) for seed in arguments.seeds]
        figures["flops_ratio_to_paper"] = round(min(ratios), 1)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
