"""Golden searches: every strategy in every space proposes the candidates that it proposed when they were recorded."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from strategies import KINDS, SMOLLM2_135M, layer, llama

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture
from budwood.search.candidate import Evaluation, canonical_key
from budwood.search.run import run_search
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy

GOLDEN = json.loads((Path(__file__).parent / "histories.json").read_text())
TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
SIZES = {"population": 8, "num_elites": 4, "num_mutants": 3, "num_crossovers": 3, "num_randoms": 2}
SMALL = SIZES | {"epochs": 4, "crossover_parents": "any"}
SHARES = {"probability_reading": "share", "probability": 0.4, "sampling": "rejection", "constraint": "rejection"}
SEARCHES = {
    "evolution": SMALL | {"stages": (2,)},
    "random": SMALL | {"strategy": "random", "epochs": 1},
    "local": SMALL | {"strategy": "local", "epochs": 2, "stages": (2,)},
    "pareto": SMALL | {"strategy": "pareto", "objectives": ("parameters", "flops")},
    "share": SMALL | SHARES | {"epochs": 2},
}
QUICKSTART = SMALL | {
    "population": 7,
    "epochs": 2,
    "num_crossovers": 2,
    "level_switch": 0.5,
    "screening": 20,
    "stages": (2,),
}


def evaluator(teacher: Architecture, num_sequences: int):
    """Return losses without any rounding in them: of depth, width and the key of the genes."""

    def evaluate(selections: Sequence[Selection], sequences: slice = slice(None)) -> Iterator[tuple[int, Evaluation]]:
        for place, selection in enumerate(selections):
            noise = int(canonical_key(selection), 16) / 2**64
            depth, width = len(selection.layers) / teacher.num_hidden_layers, len(selection.hidden)
            base = abs(depth - 0.5) + abs(width / teacher.hidden_size - 0.75)
            flops = float(num_parameters(selection.architecture(teacher)) * (1 + noise))
            losses = [base + noise / (4 + sequence) for sequence in range(num_sequences)][sequences]
            yield place, Evaluation(sequence_losses=losses, tokens=1, flops=1.0, seconds=0.0, flops_per_token=flops)

    return evaluate


def search(tmp_path: Path, space: SearchSpace, parameter_bin: ParameterBin, settings: dict, num_sequences: int) -> dict:
    """Run a search and return the keys of its candidates and elites."""
    strategy = open_strategy(space, parameter_bin, SearchSettings(num_finalists=1, **settings))
    evaluate = evaluator(space.teacher, num_sequences)
    records = run_search(strategy, evaluate, tmp_path / "history.jsonl", num_sequences)
    keys = [record.key for record in records], [elite.key for elite in strategy.elites]
    return dict(zip(("keys", "elites"), map(" ".join, keys), strict=True))


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_strategy_repeats_its_golden_history(name, granularity, layerwise, tmp_path):
    space = SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise)
    half = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.2)
    golden = GOLDEN[f"{name} {granularity}_{'layerwise' if layerwise else 'uniform'}"]
    assert search(tmp_path, space, half, SEARCHES[name], 4) == golden


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_the_quickstarts_search_repeats_its_golden_history(fraction, layerwise, tmp_path):
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=layerwise, alignment=16)
    parameter_bin = ParameterBin.around(fraction * num_parameters(SMOLLM2_135M))
    golden = GOLDEN[f"quickstart {fraction} {'layerwise' if layerwise else 'uniform'}"]
    assert search(tmp_path, space, parameter_bin, QUICKSTART, 6) == golden
