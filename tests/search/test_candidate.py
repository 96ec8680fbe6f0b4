"""Candidates are known by their genes, records are known by what they keep of them."""

import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from strategies import SMOLLM2_135M, count, members

from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import Candidate, Evaluation, SearchRecord, canonical_key, gene_columns

WHOLE = Selection.prefix(SMOLLM2_135M)


@given(members(), members())
def test_keys_are_equal_exactly_where_the_same_is_kept(
    first: tuple[SearchSpace, Selection], second: tuple[SearchSpace, Selection]
) -> None:
    one, other = first[1], second[1]
    assert (canonical_key(one) == canonical_key(other)) == (one.key() == other.key())
    backwards = Selection(hidden=tuple(one.hidden)[::-1], layers=one.layers[::-1])
    assert canonical_key(backwards) == canonical_key(one)


@pytest.mark.slow
def test_keys_are_the_same_in_every_process() -> None:
    """Histories are compared by key across restarts, so no key may depend on Python's hash seed."""
    code = (
        "from strategies import SMOLLM2_135M; from budwood.arch.selection import Selection; "
        "from budwood.search.candidate import canonical_key; print(canonical_key(Selection.prefix(SMOLLM2_135M)))"
    )
    keys = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        keys.add(run.stdout.strip())
    assert keys == {canonical_key(WHOLE)}


def test_the_origin_does_not_matter_to_the_key() -> None:
    assert Candidate(WHOLE, "initial").key == Candidate(WHOLE, "mutation").key == canonical_key(WHOLE)


@given(members())
def test_records_survive_json(drawn: tuple[SearchSpace, Selection]) -> None:
    space, member = drawn
    record = SearchRecord(
        evaluation=3,
        epoch=1,
        origin="crossover",
        sequence_losses=[2.0, 2.25],
        finished=True,
        tokens=512,
        flops=1e9,
        seconds=0.5,
        **gene_columns(member, space.teacher),
    )
    row = json.loads(json.dumps(record.to_dict()))
    assert (row.pop("loss"), row.pop("perplexity"), row.pop("num_sequences")) == (2.125, math.exp(2.125), 2)
    assert SearchRecord(**row) == record
    assert (record.key, record.num_parameters) == (canonical_key(member), count(space, member))
    assert (record.hidden_size, record.num_hidden_layers) == (len(member.hidden), len(member.layers))
    neurons = [len(layer.neurons) for layer in member.layers]
    assert record.intermediate_size == pytest.approx(sum(neurons) / len(neurons))


def test_a_loss_is_the_mean_over_sequences() -> None:
    assert Evaluation(sequence_losses=[1.0, 2.0, 4.5], tokens=9, flops=0.0, seconds=0.0).loss == pytest.approx(2.5)
