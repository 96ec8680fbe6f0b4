"""An eighth of SmolLM2-135M that is cut from its distilled quarter, beside one that is cut from the teacher itself.

Both are searched alike (48 corrected candidates of layers that may differ, the best refitted on 80 sequences), and
distilled from 64 draws of SmolLM2 at the peak rate that short runs choose. Losses are nats per token of 32 validation
sequences; differences are paired by sequence. One seed.

Usage: python benchmarks/stages.py [--quarter FOLDER] [--tokens 50176 100352 212992]; about an hour on a core that
multiplies bfloat16, and another 15 minutes to make the quarter where no folder of one is given. What is finished is not
made again.

Last line: a JSON object with `quarter`, and for `staged` and `direct` the `shape`, its `parameters`, `untrained`, the
`nats` by number of tokens, and the `flops` of ranking, searching, cutting and of training by tokens, without those of
the quarter; `less_staged` has the difference from the staged one after the first number of tokens, with its error.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quickstart import CACHE_DIR, MEASUREMENT, WIKIPEDIA, open_quickstart, refitting, spent, windows
from search import UNTRAINED, UNTRAINED_SPACE
from study import SHAPES

import budwood
from budwood import BinSettings, Checkpoint, DistillationSettings, RateSweep, Schedule, Study
from budwood.evaluation.statistics import mean_and_error
from budwood.models.losses import sequence_losses

BINS = {
    "quarter": BinSettings(low=SHAPES["quarter"][1].low, high=SHAPES["quarter"][1].high),
    "eighth": BinSettings(low=15_973_656, high=17_655_094),
}
NUM_REFIT, NUM_SEQUENCES = 80, 32
QUARTER_TOKENS, QUARTER_RATE = 100_352, 1e-4
SWEEP = RateSweep(tokens=6_272, rates=(1e-4, 3e-4, 1e-3))
DRAWS = DistillationSettings(loss="sampled")
SETTINGS = UNTRAINED.model_copy(update={"seed": 0})


def schedule(tokens: int) -> Schedule:
    """Return how a student is trained."""
    return Schedule(
        tokens=tokens, sequence_length=256, global_batch=4, micro_batch=4, warmup_steps=8, num_evaluations=2
    )


def found(study: Study, size: str) -> tuple[Checkpoint, dict[str, Any]]:
    """Return what a search of a study cuts out, and what that took."""
    best = study.search({size: BINS[size]}, space=UNTRAINED_SPACE, settings=SETTINGS)[size]
    flops = {"cut": spent(study, best)["flops"]}
    facts = {"shape": best.winner.description, "parameters": best.winner.num_parameters, "flops": flops}
    return best.checkpoint, facts


def quarter_of(study: Study) -> Checkpoint:
    """Return a distilled quarter."""
    start, _ = found(study, "quarter")
    return study.distill(start, schedule=schedule(QUARTER_TOKENS), learning_rate=QUARTER_RATE, settings=DRAWS).model


def main() -> None:
    """Make both, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quarter", type=Path, help="folder of a distilled quarter, such as study.py trains")
    parser.add_argument("--tokens", nargs="+", type=int, default=[50_176, 100_352, 212_992])
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    options = parser.parse_args()
    teacher = refitting(open_quickstart(options.cache_dir), NUM_REFIT)
    text = windows(teacher, "validation", NUM_SEQUENCES)

    def losses(model: Checkpoint) -> np.ndarray:
        measured: np.ndarray = sequence_losses(model.load_model(torch.float32), text).numpy()
        return measured

    quarter = options.quarter or quarter_of(teacher).folder
    second = budwood.open_study(
        budwood.TeacherSettings(model=str(quarter)),
        budwood.CorpusSettings(sources={"wikipedia": WIKIPEDIA}),
        folder=options.cache_dir / "stages",
        measurement=MEASUREMENT,
    )
    result: dict[str, Any] = {"quarter": round(float(losses(second.teacher).mean()), 3)}
    base: np.ndarray | None = None
    for name, study in (("staged", refitting(second, NUM_REFIT)), ("direct", teacher)):
        start, facts = found(study, "eighth")
        facts |= {"untrained": round(float(losses(start).mean()), 3), "nats": {}, "less_staged": {}}
        for tokens in options.tokens[: 1 if name == "staged" else None]:
            trained = teacher.distill(start, schedule=schedule(tokens), learning_rate=SWEEP, settings=DRAWS)
            found_losses = losses(trained.model)
            base = found_losses if base is None else base
            less = found_losses - base
            facts["nats"][tokens] = round(float(found_losses.mean()), 3)
            facts["flops"][tokens] = sum(cost.flops for cost in trained.record.costs)
            facts["less_staged"][tokens] = [round(part, 3) for part in mean_and_error(less)]
            sys.stderr.write(f"{name}: {json.dumps(facts)}\n")
        result[name] = facts
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
