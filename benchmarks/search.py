"""What a search finds for what it spends: ours, the paper's, whittle 0.6.0's random search, and random draws.

All look for the best sub-network of SmolLM2-135M with half of its parameters (63.9M to 70.6M), of equal layers where
nothing else is said, on eight Wikipedia sequences of 256 tokens; the winner is measured on 32 others, in float32:

* `ours`: layers are left out one by one, and evolution, led by a surrogate, races corrected cuts; two finalists are
  refitted, trained on 16,384 tokens, and compared on text of their own;
* `untrained`: a third of the candidates, whose layers may differ; the best is refitted on more text, and not trained;
  also at three quarters of the parameters (95.8M to 105.9M);
* `paper`: Algorithm 1 on the teacher's own order with rebuilt rotary embeddings, 50 + 20 x 50 candidates that read all;
* `whittle`: its random search, with as many evaluation tokens as ours, in an environment of its own;
* `random`: random draws of our cuts with as many evaluation tokens as ours, corrected and compared, without training:
  to be compared with `untrained`.

Evaluation tokens are those that sub-networks read to be compared, also when layers are left out. What training costs
comes on top, and is in `flops`.

Usage: python benchmarks/search.py [--seeds 0 1 2]. Whatever is finished is kept, candidate by candidate. The paper's
search takes half an hour a seed on a core that multiplies bfloat16, an hour and more on others; all the rest together
takes about as long.

Last line: a JSON object with `ours_nats, untrained_nats, three_quarter_nats, paper_nats, whittle_nats, random_nats` (a
list over seeds each), and `flops_ratio_to_paper`: what the paper's search spends over what ours has spent, calibration
and elimination included, at the end of the generation whose best corrected cut, not refitted, is as good on the
held-out text as the paper's winner; the smallest over seeds.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuts import HALF
from peers import CACHE_DIR, WHITTLE_SEARCH_INSTALLS, make_environment, run_script
from quickstart import LENGTH, MEASUREMENT, PAPER_ORDER, open_quickstart, refitting, spent, windows
from transformers import PreTrainedModel

from budwood import BinSettings, Compensation, Schedule, SearchSettings, Selection, SpaceSettings, Study, Subnet
from budwood.models.losses import sequence_losses

ARMS = ("ours", "untrained", "three_quarter", "random", "whittle", "paper")
BINS = {
    "half": BinSettings(low=HALF.low, high=HALF.high),
    "three_quarter": BinSettings(low=95_800_000, high=105_900_000),
}

OURS = SearchSettings(
    compare="corrected",
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
    num_finalists=2,
    finalist_tokens=16_384,
)
UNTRAINED = OURS.model_copy(
    update={
        "population": 8,
        "num_balanced": 6,
        "epochs": 5,
        "num_mutants": 6,
        "num_crossovers": 2,
        "num_randoms": 0,
        "stages": (2,),
        "num_finalists": 1,
        "finalist_tokens": 0,
    }
)
PAPER = SearchSettings(epochs=20, sampling="rejection", constraint="rejection", num_finalists=1)

SPACE = SpaceSettings(layerwise=False, alignment=16, compensation=Compensation(refit=True))
CORRECTED = SPACE.model_copy(update={"compensation": Compensation(refit=False)})
"""What candidates are compared as."""
UNTRAINED_SPACE = SpaceSettings(layerwise=True, alignment=16, compensation=Compensation(refit=True, refit_ridge=0.3))
"""Layer-wise. More text needs less of a ridge."""
PAPER_SPACE = SpaceSettings(layerwise=False, **PAPER_ORDER.model_dump())
SCHEDULE = Schedule(tokens=16_384, sequence_length=LENGTH, global_batch=4, micro_batch=4, warmup_steps=4)
"""Of finalists."""
NUM_REFIT = 160
"""Sequences to which winners are refitted that are not trained."""

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """The teacher with its text, and where whittle's results are kept."""

    study: Study
    cache_dir: Path

    def refitting(self, num_sequences: int) -> "Bench":
        """Return the same with so many sequences for every refit."""
        return replace(self, study=refitting(self.study, num_sequences))

    def heldout(self, model: PreTrainedModel) -> float:
        """Return the loss of a model on the held-out text, in float32."""
        return float(sequence_losses(model.float(), windows(self.study, "validation", MEASUREMENT.validation)).mean())

    def search(
        self, settings: SearchSettings, seed: int, space: SpaceSettings = SPACE, bin_name: str = "half"
    ) -> tuple[Subnet, Result]:
        """Return what a search finds, with its loss and its cost."""
        seeded, bins = settings.model_copy(update={"seed": seed}), {bin_name: BINS[bin_name]}
        found = self.study.search(bins, space=space, settings=seeded, schedule=SCHEDULE)[bin_name]
        history = found.history
        assert history is not None, "a search has candidates"
        sums = {name: float(history[name].sum()) for name in ("tokens", "flops", "seconds")}
        nats = self.heldout(found.checkpoint.load_model(torch.float32))
        return found, {"nats": nats, "winner": found.winner.description, "evaluations": len(history), **sums}


def run_paper(bench: Bench, seed: int) -> Result:
    """Search as the paper does."""
    return bench.search(PAPER, seed, PAPER_SPACE)[1]


def run_ours(bench: Bench, seed: int) -> Result:
    """Race corrected cuts, and refit, train and compare the finalists."""
    found, result = bench.search(OURS, seed)
    trained = bench.study.pretrain(found.checkpoint, schedule=SCHEDULE.brief(OURS.finalist_tokens))
    steps = [
        {"flops": flops, "nats": bench.heldout(bench.study.activate(best, CORRECTED))}
        for flops, best in best_by_generation(bench.study, found)
    ]
    own = {
        "nats": bench.heldout(trained.model.load_model(torch.float32)),
        "before_training": result["nats"],
        "steps": steps,
    }
    return _with_all_costs(bench, found, result) | own


def run_untrained(bench: Bench, seed: int) -> Result:
    """Race corrected cuts of half the parameters, and refit the best."""
    bench = bench.refitting(NUM_REFIT)
    return _with_all_costs(bench, *bench.search(UNTRAINED, seed, UNTRAINED_SPACE))


def run_three_quarter(bench: Bench, seed: int) -> Result:
    """Do the same at three quarters of the parameters."""
    bench = bench.refitting(NUM_REFIT)
    return _with_all_costs(bench, *bench.search(UNTRAINED, seed, UNTRAINED_SPACE, "three_quarter"))


def run_random(bench: Bench, seed: int) -> Result:
    """Draw as many ordered cuts as our search's tokens allow."""
    tokens = bench.search(OURS, seed)[1]["tokens"]
    num_draws = int(tokens) // (MEASUREMENT.selection * LENGTH)
    settings = SearchSettings(strategy="random", population=num_draws, epochs=0, num_elites=4, num_finalists=2)
    return _with_all_costs(bench, *bench.search(settings, seed))


def run_whittle(bench: Bench, seed: int) -> Result:
    """Run whittle's random search on the same text, in its own environment."""
    folder, study = bench.cache_dir / "search", bench.study
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"whittle-{seed}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    python = make_environment("whittle-search", WHITTLE_SEARCH_INSTALLS, bench.cache_dir)
    texts = {"selection": ("selection", MEASUREMENT.selection), "heldout": ("validation", MEASUREMENT.validation)}
    for name, (split, count) in texts.items():
        np.save(folder / f"{name}.npy", windows(study, split, count).numpy())
    found, result = bench.search(OURS, seed)
    arguments = {
        "teacher": study.teacher.folder,
        "teacher-nats": bench.heldout(study.teacher.load_model(torch.float32)),
        **{name: folder / f"{name}.npy" for name in texts},
        "tokens": _with_all_costs(bench, found, result)["evaluation_tokens"],
        "seed": seed,
        "num-threads": torch.get_num_threads(),
        "dtype": study.materials.compute.precision,
        "history": folder / f"whittle-{seed}.jsonl",
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    script = Path(__file__).with_name("whittle_search.py")
    measured = run_script(python, script, [*options, "--bin", str(HALF.low), str(HALF.high)])
    kept.write_text(json.dumps(measured))
    return measured


def _with_all_costs(bench: Bench, found: Subnet, result: Result) -> Result:
    """Add what ordering the teacher and comparing finalists took."""
    return result | spent(bench.study, found)


def best_by_generation(study: Study, found: Subnet) -> list[tuple[float, Selection]]:
    """Return the generations that brought a new best candidate: the FLOPs spent until their end, and that candidate."""
    history, genes = found.history, found.genes
    assert history is not None, "a search has candidates"
    assert genes is not None, "and keeps what they keep"
    # Before its first candidate a search spends on what candidates are corrected from.
    before = spent(study, found)["search_flops"] - float(history["flops"].sum())
    finished = history[history["finished"]]
    changes: list[tuple[float, Selection]] = []
    for epoch in sorted(history["epoch"].unique()):
        best = finished.loc[finished[finished["epoch"] <= epoch]["loss"].idxmin()]
        if best["epoch"] == epoch:
            flops = before + float(history.loc[history["epoch"] <= epoch, "flops"].sum())
            changes.append((flops, genes.read(int(best["evaluation"]))))
    return changes


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
    bench = Bench(open_quickstart(arguments.cache_dir), arguments.cache_dir)
    runs = {
        "ours": run_ours,
        "untrained": run_untrained,
        "three_quarter": run_three_quarter,
        "random": run_random,
        "whittle": run_whittle,
        "paper": run_paper,
    }
    results: dict[tuple[str, int], Result] = {}
    for seed in arguments.seeds:
        for arm in arguments.arms:
            results[arm, seed] = runs[arm](bench, seed)
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
