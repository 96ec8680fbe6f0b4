"""What stages cost, by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, decoder, layer, pythia
from teachers import architecture_of, tiny_teacher
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from budwood.arch.count import forward_flops_per_token, layer_flops_per_token, num_parameters
from budwood.evaluation.continuations import agreement, continue_prompts
from budwood.records.cost import Cost
from budwood.records.workload import Workload
from budwood.search.elimination import expected_trials
from budwood.study.costs import (
    Correction,
    Extent,
    check_cost,
    choice_cost,
    elimination_cost,
    forward_of,
    moments_cost,
    proof_cost,
    reading_cost,
    writing_cost,
)
from budwood.subnet.flops import calibration_work, elimination_work, ran_alone
from budwood.subnet.settings import Compensation
from budwood.training.settings import Schedule

TEACHER = decoder("llama", 11, 8, *[layer(4, 4, 2, 10)] * 3, tied=True)
CHILD = decoder("llama", 11, 6, layer(2, 2, 2, 5), tied=True)
TEXT, LONGER = Extent(count=3, length=7), Extent(count=5, length=7)
NO_REGRESSION = dict.fromkeys(("neurons", "channels", "heads", "layers", "refit"), False)


def test_corrections_without_a_regression_read_no_text() -> None:
    for settings in (None, Compensation(**NO_REGRESSION)):
        cost = Correction(TEACHER, CHILD, 1, settings, TEXT, TEXT).cost()
        assert (cost.flops, cost.tokens) == (0, 0)
    whole = Correction(TEACHER, TEACHER, 0, Compensation(), TEXT, TEXT).cost()
    assert (whole.flops, whole.tokens) == (0, 0)


def test_a_correction_costs_a_pass_of_the_teacher_and_its_regression() -> None:
    """Of 10 neurons 5 are kept: 2n^2 for every token; k^3/3 + 2k^2(n - k), and 2k(n - k) for each of 6 rows."""
    settings = Compensation(**NO_REGRESSION | {"neurons": True})
    cost = Correction(TEACHER, CHILD, 1, settings, TEXT, LONGER).cost()
    solved = 2 * 10**2 * 21 + 5**3 / 3 + 2 * 5**2 * 5 + 2 * 5 * 5 * 6
    assert cost.flops == 21 * layer_flops_per_token(TEACHER, *TEACHER.layers, context=7) + solved
    assert cost.tokens == 21


def test_a_refit_costs_a_pass_of_the_teacher_and_the_fits_of_the_childs_layers() -> None:
    """Of 6 channels twice, heads of 4 dimensions and 5 neurons, onto 6 channels; the MLP of three matrices runs again.

    A layer has 4 + 2 x 4 rows of heads and 2 x 5 of neurons that read channels.
    """
    cost = Correction(TEACHER, CHILD, 0, Compensation(**NO_REGRESSION | {"refit": True}), LONGER, TEXT).cost()
    passes = sum(layer_flops_per_token(each, *each.layers, context=7) for each in (TEACHER, CHILD))
    passes += 2 * 3 * 6 * 5
    gathered = sum((2 * n**2 + 2 * n * 6) * 21 for n in (6, 4, 6, 5))
    solved = sum(n**3 / 3 + 2 * n**2 * 6 for n in (6, 4, 6, 5))
    assert cost.flops == pytest.approx(21 * passes + gathered + solved + 2 * 6**2 * (3 * 4 + 2 * 5))
    assert cost.tokens == 21
    # With other corrections, each reads a text of its own.
    every = [Compensation(refit=refit) for refit in (True, False)]
    both, plain = (Correction(TEACHER, CHILD, 1, settings, LONGER, TEXT).cost() for settings in every)
    assert (both.flops - plain.flops, both.tokens) == (pytest.approx(cost.flops), 35 + 21)


def test_the_work_of_ranking_by_hand() -> None:
    """Three layers of 8 channels, 10 neurons and 4 heads make 4 x 8 + 10 + 3 x 4 x 7 numbers of a token; 11 words.

    Scores take 19 x 8 + 4 x 10 more. Trials are of 21 tokens; all layers run in two of them, and six are compared.
    """
    passed, count = 21 * layer_flops_per_token(TEACHER, *TEACHER.layers, context=7), num_parameters(TEACHER)
    scored = calibration_work(TEACHER, num_tokens=21, context=7)
    assert scored == Workload(passes=passed, entries=21 * 3 * (126 + 192), moved=count)
    compared = 2 * 8**2 * (6 * 21 + 11)
    cost = Cost(stage="elimination", flops=2 * passed + compared, tokens=6 * 21)
    entries = pytest.approx(6 * 21 * 2 * 8 + 2 * 21 * 3 * 126)
    expected = Workload(passes=2 * passed, products=compared, entries=entries, moved=3 * count)
    assert elimination_work(TEACHER, cost, context=7) == expected


def test_moments_for_searches_cost_a_pass_of_the_teacher() -> None:
    """Three layers with inputs of 8, 8 and 8 channels or head dimensions, and of 10 neurons; two gaps of 8 channels."""
    cost = moments_cost(TEACHER, Compensation(), 2, TEXT)
    gaps = 2 * (4 * 8**2 * 21 + 8**3 / 3 + 2 * 8**3)
    moments = 3 * 2 * 21 * (3 * 8**2 + 10**2) + gaps
    assert cost.flops == 21 * layer_flops_per_token(TEACHER, *TEACHER.layers, context=7) + moments
    assert cost.tokens == 21


def test_a_certificate_costs_what_its_texts_do() -> None:
    """A token of a text of n costs n FLOPs here. Proofs read every text twice, checks alone and padded."""
    proof = proof_cost(float, (1, 16))
    assert (proof.stage, proof.tokens, proof.flops) == ("certificate", 2 * 17, 2 * (1 + 16 * 16))
    check = check_cost(float, (10, 4), num_chat_tokens=5)
    assert (check.tokens, check.flops) == (14 + 2 * 10 + 5, 100 + 16 + 20 * 10 + 25)
    assert check_cost(float, (10, 4), num_chat_tokens=0).tokens == 34
    assert forward_of(CHILD)(7) == forward_flops_per_token(CHILD, context=7)


def test_the_costs_that_ledger_and_plan_share_by_hand() -> None:
    """Two models of n and 2n FLOPs a token of texts of n read 3 sequences of 4 tokens.

    Trained, each reads 2 sequences of 6 tokens before that, and 5 at each of two points of its curve.
    """
    lost = reading_cost("compensation", 7.0, Extent(2, 4))
    assert (lost.flops, lost.tokens) == (56.0, 8)
    finalists = [float, lambda length: 2.0 * length]
    comparing = choice_cost(finalists, Extent(3, 4), [lost], None)
    assert (comparing.flops, comparing.tokens) == (12 * (4 + 8) + 56, 2 * 12 + 8)
    schedule = Schedule(tokens=12, sequence_length=6, global_batch=2, micro_batch=1, num_evaluations=1)
    trained = choice_cost(finalists, Extent(3, 4), [lost], (schedule, 5))
    assert trained.flops - comparing.flops == (6 + 12) * (3 * 12 + 2 * 5 * 6)
    assert trained.tokens - comparing.tokens == 2 * (12 + 2 * 5 * 6)


def test_an_elimination_by_hand() -> None:
    """All four layers once, then three of them four times: without the first, the others share only the first ones."""
    four, text = pythia(64, 4, 16, 2), Extent(3, 4)
    error, layer_flops = 2 * 16**2, (forward_flops_per_token(four, context=4) - 2 * 64 * 16) / 4
    calls = [[(0, 1, 2, 3)], [(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)]]
    assert ran_alone(calls[1]) == [[1, 2, 3], [0, 2, 3], [1, 3], [2]]
    spent = elimination_cost(four, text, calls)
    assert spent.flops == 12 * (5 * error + (4 + 3 + 3 + 2 + 1) * layer_flops) + 64 * error
    assert spent.tokens == 5 * 12
    # Then all three of three, and both of two: as many trials as there are sets of layers to leave out.
    assert expected_trials(4)[:2] == calls
    assert [len(trials) for trials in expected_trials(4)] == [1, 4, 3, 2]
    rest = [[1, 2], [0, 2], [1]], [[1], [0]]
    assert [ran_alone(trials) for trials in expected_trials(4)[2:]] == list(rest)
    assert elimination_cost(four, text).flops == spent.flops + 12 * (5 * error + (2 + 2 + 1 + 1 + 1) * layer_flops)
    # Of one layer only the whole is tried.
    assert expected_trials(1) == [[(0,)]]
    # No more than 16 trials run together: 30 of them read the first 15 and the first 14 layers twice.
    thirty = [[tuple(kept for kept in range(30) if kept != gone) for gone in range(30)]]
    found = elimination_cost(SMOLLM2_135M, Extent(1, 4), thirty)
    one = layer_flops_per_token(SMOLLM2_135M, SMOLLM2_135M.layers[0], context=4)
    ran = sum(29 - gone for gone in range(30)) + 15 + 29
    assert found.flops == 4 * (30 * 2 * 576**2 + ran * one) + 2 * 49152 * 576**2


@pytest.mark.parametrize("ran", [6.63e12, 6.55e12, 6.57e12])
def test_an_elimination_costs_what_three_have_run(ran: float) -> None:
    """Two sequences of the quickstart's text, by three errors, on 2026-11-30; each took 140 trials, as is expected."""
    expected = elimination_cost(SMOLLM2_135M, Extent(2, 256))
    assert expected.flops == pytest.approx(ran, rel=0.015)
    assert expected.tokens == 140 * 512


@pytest.mark.slow
@hypothesis.settings(max_examples=10)
@given(depth=st.integers(5, 40), seed=st.integers(0, 9))
def test_trials_are_expected_to_share_what_they_share_on_average(depth: int, seed: int) -> None:
    """Of 2,000 draws of four layers out of some."""
    rng = np.random.default_rng(seed)
    expected = [sum(map(len, ran_alone(trials))) for trials in expected_trials(depth) if len(trials[0]) == depth - 2]
    draws = [sorted(rng.choice(depth - 1, 4, replace=False)) for _ in range(2000)]
    kept = range(depth - 1)
    drawn = [sum(map(len, ran_alone([tuple(k for k in kept if k != gone) for gone in draw]))) for draw in draws]
    assert expected == [pytest.approx(np.mean(drawn), abs=1 + 5 * np.std(drawn) / 2000**0.5)]


def test_writing_and_comparing_cost_what_torch_counts() -> None:
    """Of a prompt the head reads the last position; rows that end are run on until all have."""
    model = tiny_teacher("llama", tied=True)
    prompts = [list(range(first, first + 8)) for first in (1, 20)]
    first, other = continue_prompts(model, prompts, eos_token_id=-1, new_tokens=6)
    (end,) = {*first[1:2]} - {*other}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        written = continue_prompts(model, prompts, eos_token_id=end, new_tokens=6)
        agreement(model, prompts, written)
    lengths = [len(row) for row in written]
    assert lengths == [2, 6]
    cost = writing_cost(architecture_of(model), 8, lengths, lengths)
    assert cost.flops == counter.get_total_flops()
    assert cost.tokens == 2 * 2 * (8 + 5)
