"""What a search finds for what it spends: ours, the paper's, whittle 0.6.0's random search, and random draws.

All look for the best sub-network of SmolLM2-135M with half of its parameters (63.9M to 70.6M) and equal layers, on
eight Wikipedia sequences of 256 tokens; the winner is measured on 32 others, in float32:

* `ours`: layers are left out one by one, and evolution, led by a surrogate, races cuts; two finalists are corrected,
  trained on 16,384 tokens, and compared on text of their own. `untrained` is the same winner before that training;
* `paper`: Algorithm 1 on the teacher's own order with rebuilt rotary embeddings, 50 + 20 x 50 candidates that read all;
* `whittle`: its random search, with as many evaluation tokens as ours, in an environment of its own;
* `random`: random draws of our cuts with as many evaluation tokens as ours, corrected and compared, without training:
  to be compared with `untrained`.

Evaluation tokens are those that sub-networks read to be compared, also when layers are left out. What training costs
comes on top, and is in `flops`.

Usage: python benchmarks/search.py [--seeds 0 1 2]. Whatever is finished is kept, candidate by candidate. The paper's
search takes half an hour a seed on a core that multiplies bfloat16, an hour and more on others; all the rest together
takes about as long.

Last line: a JSON object with `ours_nats, untrained_nats, paper_nats, whittle_nats, random_nats` (a list over seeds
each), and `flops_ratio_to_paper`: what the paper's search spends over what ours has spent, calibration and elimination
included, at the end of the generation whose best plain cut is as good on the held-out text as the paper's winner; the
smallest over seeds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from budwood.pipelines.evolution.finals import Finals, Look
from cuts import HALF
from peers import CACHE_DIR, WHITTLE_SEARCH_INSTALLS, make_environment, run_script
from quickstart import LENGTH, NUM_CALIBRATION_WINDOWS, Quickstart, open_quickstart

from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.models.checkpoint import load_model
from budwood.models.device import Compute, choose_compute
from budwood.models.losses import sequence_losses
from budwood.parameters import ArmParameters, MeasurementParameters, SpaceParameters
from budwood.search.candidate import SearchRecord, canonical_key
from budwood.search.choice import choose
from budwood.search.run import run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import Strategy, open_strategy
from budwood.subnet.compensate import cut_out
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.settings import Compensation, Ordering
from budwood.training.run import MODEL
from budwood.training.settings import Engine, Schedule

ARMS = ("ours", "random", "whittle", "paper")
NUM_SEQUENCES, NUM_CHOICE, NUM_HELDOUT, NUM_FINALISTS = 8, 16, 32, 2
FINALIST_TOKENS, LEARNING_RATE, ALIGNMENT = 16_384, 3e-4, 16
EXACT = Compute(torch.device("cpu"), "float32")

OURS = SearchSettings(
    population=16,
    epochs=8,
    num_elites=4,
    num_mutants=8,
    num_crossovers=2,
    num_randoms=6,
    probability=1.0,
    level_switch=0.5,
    screening=40,
    crossover_parents="any",
    stages=(2, 4),
)
PAPER = SearchSettings(epochs=20, sampling="rejection", constraint="rejection")

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

    def finished(self, arm: str, seed: int) -> Result:
        """Return what an arm has found."""
        result: Result = json.loads((self.folder / f"{arm}-{seed}.json").read_text())
        return result

    def search(
        self, name: str, teacher: OrderedTeacher, settings: SearchSettings
    ) -> tuple[Strategy, list[SearchRecord], list[tuple[float, Selection]]]:
        """Run a search; also return what was spent and the best candidate after every generation."""
        loaded = teacher.materialise(choose_compute())
        evaluate = SubnetEvaluator(teacher=loaded, windows=self.quickstart.windows("selection", NUM_SEQUENCES))
        space = SearchSpace(teacher=teacher.ranked, layerwise=False, alignment=1 if name == "paper" else ALIGNMENT)
        strategy = open_strategy(space, HALF, settings)
        steps: list[tuple[float, Selection]] = []

        def after_generation(search: Strategy, records: Sequence[SearchRecord]) -> None:
            steps.append((sum(record.flops for record in records), search.elites[0].selection))

        history_file = self.folder / f"{name}-{settings.seed}.jsonl"
        return strategy, run_search(strategy, evaluate, history_file, NUM_SEQUENCES, after_generation), steps


def run_paper(bench: Bench, seed: int) -> Result:
    """Search as the paper does."""
    teacher = bench.quickstart.ordered(Ordering(ordering="native", rope="rebuild"))
    strategy, records, _ = bench.search("paper", teacher, PAPER.model_copy(update={"seed": seed}))
    return {"nats": bench.heldout(teacher, strategy.elites[0].selection), **_spent(records)}


def run_ours(bench: Bench, seed: int) -> Result:
    """Race ordered cuts, and correct, train and compare the finalists."""
    teacher = bench.quickstart.ordered()
    strategy, records, steps = bench.search("ours", teacher, OURS.model_copy(update={"seed": seed}))
    plain = [{"flops": flops, "nats": bench.heldout(teacher, best)} for flops, best in _changes(steps)]
    finals = _finals(bench, teacher, f"ours-{seed}", FINALIST_TOKENS)
    winner, looks = _winner(finals, strategy)
    trained = load_model(finals.folder / canonical_key(winner) / MODEL, torch.float32)
    return {
        "nats": float(sequence_losses(trained, bench.quickstart.windows("validation", NUM_HELDOUT)).mean()),
        "untrained_nats": bench.heldout(teacher, winner, Compensation()),
        "steps": plain,
        **_told(bench, teacher, winner, records, looks),
    }


def run_random(bench: Bench, seed: int) -> Result:
    """Draw as many ordered cuts as our search's tokens allow."""
    num_draws = bench.finished("ours", seed)["search_tokens"] // (NUM_SEQUENCES * LENGTH)
    settings = SearchSettings(strategy="random", population=num_draws, epochs=0, num_elites=4, seed=seed)
    teacher = bench.quickstart.ordered()
    strategy, records, _ = bench.search("random", teacher, settings)
    winner, looks = _winner(_finals(bench, teacher, f"random-{seed}", 0), strategy)
    nats = bench.heldout(teacher, winner, Compensation())
    return {"nats": nats, **_told(bench, teacher, winner, records, looks)}


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
        "tokens": bench.finished("ours", seed)["evaluation_tokens"],
        "seed": seed,
        "num-threads": torch.get_num_threads(),
        "dtype": choose_compute().precision,
        "history": bench.folder / f"whittle-{seed}.jsonl",
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    script = Path(__file__).with_name("whittle_search.py")
    return run_script(python, script, [*options, "--bin", str(HALF.low), str(HALF.high)])


def _finals(bench: Bench, teacher: OrderedTeacher, name: str, trained_tokens: int) -> Finals:
    """Return the product's finals, in float32."""
    quickstart = bench.quickstart
    schedule = {"sequence_length": LENGTH, "global_batch": 4, "micro_batch": 4, "warmup_steps": 4}
    counts = {"calibration": NUM_CALIBRATION_WINDOWS, "selection": NUM_SEQUENCES, "choice": NUM_CHOICE}
    return Finals(
        teacher=quickstart.teacher,
        ordered=teacher.materialise(EXACT),
        tokens=quickstart.tokens,
        space=SpaceParameters(layerwise=False, compensation=Compensation()),
        search=SearchSettings(finalist_tokens=trained_tokens),
        measurement=MeasurementParameters(length=LENGTH, validation=NUM_HELDOUT, heldout=4, device="cpu", **counts),
        schedule=Schedule(tokens=FINALIST_TOKENS, **schedule),
        arm=ArmParameters(learning_rate=LEARNING_RATE),
        engine=Engine(),
        folder=bench.folder / f"{name}-finals",
    )


def _winner(finals: Finals, strategy: Strategy) -> tuple[Selection, list[Look]]:
    """Return the best of the finalists on text of their own, and what looking at them took."""
    finalists = [elite.selection for elite in strategy.elites[:NUM_FINALISTS]]
    looks = [finals.look(finalist) for finalist in finalists]
    return finalists[choose([look.losses for look in looks]).winner], looks


def _told(
    bench: Bench, teacher: OrderedTeacher, winner: Selection, records: Sequence[SearchRecord], looks: Sequence[Look]
) -> Result:
    """Return a winner, and all that was spent to find it."""
    spent, ordering = _spent(records), bench.quickstart.ordering_costs
    compared = spent["tokens"] + ordering["tokens"] + len(looks) * NUM_CHOICE * LENGTH
    return {
        "plain_nats": bench.heldout(teacher, winner),
        "winner": winner.architecture(teacher.architecture).describe(),
        "evaluations": spent["evaluations"],
        "search_tokens": spent["tokens"],
        "evaluation_tokens": compared,
        "search_flops": spent["flops"],
        "ordering_flops": ordering["flops"],
        "finals_flops": sum(look.flops for look in looks),
        "flops": spent["flops"] + ordering["flops"] + sum(look.flops for look in looks),
        "seconds": spent["seconds"] + sum(look.seconds for look in looks),
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


def flops_ratio(ours: Result, paper: Result) -> float:
    """Return what the paper's search spends over what ours has spent when it is as good; 0 where it never is."""
    reached = [step["flops"] for step in ours["steps"] if step["nats"] <= paper["nats"]]
    return paper["flops"] / (reached[0] + ours["ordering_flops"]) if reached else 0.0


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
            results[arm, seed] = bench.finished(arm, seed)
            sys.stderr.write(f"{arm} {seed}: {results[arm, seed]}\n")
    figures: Result = {
        f"{arm}_nats": [round(results[arm, seed]["nats"], 3) for seed in arguments.seeds] for arm in arguments.arms
    }
    if "ours" in arguments.arms:
        figures["untrained_nats"] = [round(results["ours", seed]["untrained_nats"], 3) for seed in arguments.seeds]
    if {"ours", "paper"} <= set(arguments.arms):
        ratios = [flops_ratio(results["ours", seed], results["paper", seed]) for seed in arguments.seeds]
        figures["flops_ratio_to_paper"] = round(min(ratios), 1)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
