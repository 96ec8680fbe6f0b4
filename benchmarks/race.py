"""How well a race finds the best of many candidates, and how little it reads.

The losses of 64 half-size sub-networks of SmolLM2-135M, drawn at random from the ordered coarse uniform space, are
measured on 64 sequences of Wikipedia text. Races run on that table, each on the sequences in another random order, and
look for the single best; a race's pick is judged by the candidates' means over all sequences.

Measuring takes ten minutes on two cores that multiply bfloat16 and half an hour on others; what is measured is kept, so
that it continues after a kill.

Usage: python benchmarks/race.py [--num-races 200]

Last line: a JSON object with `success_rate` (share of races whose pick is within 0.02 nats of the best) and
`token_fraction` (tokens read over reading everything), and `mean_regret_nats`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from cuts import HALF
from numpy.typing import NDArray
from quickstart import CACHE_DIR, open_quickstart, windows
from tqdm import tqdm

from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.search.race import RaceSettings, race
from budwood.subnet.evaluate import SubnetEvaluator

NUM_CANDIDATES = 64
NUM_SEQUENCES = 64
SEQUENCE_LENGTH = 128
STAGES = RaceSettings(stages=(4, 8, 16, 32, 64))
NEAR_NATS = 0.02


def measure(cache_dir: Path) -> NDArray[np.float64]:
    """Return [64, 64] the loss of every candidate on every sequence."""
    study = open_quickstart(cache_dir)
    ordered = study.ordered().materialise(study.materials.compute)
    text = windows(study, "selection", NUM_SEQUENCES, SEQUENCE_LENGTH)
    evaluate, rng = SubnetEvaluator(teacher=ordered, windows=text, batch_size=8), np.random.default_rng(0)
    space = SearchSpace(teacher=ordered.ranked, layerwise=False)
    kept = cache_dir / f"race-{NUM_CANDIDATES}x{NUM_SEQUENCES}x{SEQUENCE_LENGTH}-{study.tokens.fingerprint}.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    selections = [sample(space, HALF, rng) for _ in range(NUM_CANDIDATES)]
    with kept.open("a") as file:
        for selection in tqdm(selections[len(rows) :], desc="measuring", unit="candidate"):
            rows.append(list(evaluate.one(selection).sequence_losses))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    return np.array(rows)


def main() -> None:
    """Measure, race and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-races", type=int, default=200)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    losses = measure(arguments.cache_dir)
    means, rng = losses.mean(1), np.random.default_rng(0)
    sys.stderr.write("best means: " + ", ".join(f"{mean:.3f}" for mean in np.sort(means)[:8]) + "\n")
    regrets, shares = [], []
    for _ in range(arguments.num_races):
        table = losses[:, rng.permutation(NUM_SEQUENCES)]
        read = race(
            lambda candidates, sequences, table=table: table[list(candidates), sequences].tolist(),
            NUM_CANDIDATES,
            STAGES,
            1,
        )
        finishers = [row for row, seen in enumerate(read) if len(seen) == NUM_SEQUENCES]
        regrets.append(means[min(finishers, key=lambda row: means[row])] - means.min())
        shares.append(sum(map(len, read)) / losses.size)
    figures = {
        "success_rate": float(np.mean(np.array(regrets) <= NEAR_NATS)),
        "token_fraction": float(np.mean(shares)),
        "mean_regret_nats": float(np.mean(regrets)),
    }
    sys.stdout.write(json.dumps({name: round(value, 4) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
