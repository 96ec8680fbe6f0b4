"""Candidates are known by their genes, records are known by what they keep of them."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from strategies import SMOLLM2_135M, architectures

from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.search.candidate import Candidate, Evaluation, SearchRecord, canonical_key, gene_columns


@given(architectures(), architectures())
def test_keys_are_equal_exactly_for_equal_genes(first: Architecture, second: Architecture) -> None:
    assert (canonical_key(first) == canonical_key(second)) == (first == second)
    assert canonical_key(Architecture.from_dict(first.to_dict())) == canonical_key(first)


@given(architectures(uniform=False))
def test_the_order_of_layers_is_part_of_the_genes(architecture: Architecture) -> None:
    turned = architecture.with_layers(architecture.layers[::-1])
    assert (canonical_key(turned) == canonical_key(architecture)) == (turned.layers == architecture.layers)


def test_keys_are_the_same_in_every_process() -> None:
    """Histories are compared by key across restarts, so no key may depend on Python's hash seed."""
    code = (
        "from strategies import SMOLLM2_135M; from budwood.search.candidate import canonical_key; "
        "print(canonical_key(SMOLLM2_135M))"
    )
    keys = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        keys.add(run.stdout.strip())
    assert keys == {canonical_key(SMOLLM2_135M)}


def test_the_origin_does_not_matter_to_the_key() -> None:
    assert Candidate(SMOLLM2_135M, "initial").key == Candidate(SMOLLM2_135M, "mutation").key


@given(architectures())
def test_records_survive_json(architecture: Architecture) -> None:
    record = SearchRecord(
        evaluation=3,
        epoch=1,
        origin="crossover",
        loss=2.125,
        perplexity=8.4,
        tokens=512,
        flops=1e9,
        seconds=0.5,
        **gene_columns(architecture),
    )
    assert SearchRecord(**json.loads(json.dumps(record.to_dict()))) == record
    assert record.architecture == architecture
    assert (record.key, record.num_parameters) == (canonical_key(architecture), num_parameters(architecture))
    assert (record.hidden_size, record.num_hidden_layers) == (architecture.hidden_size, len(architecture.layers))


def test_a_loss_is_the_mean_over_sequences() -> None:
    assert Evaluation(sequence_losses=[1.0, 2.0, 4.5], tokens=9, flops=0.0, seconds=0.0).loss == pytest.approx(2.5)
