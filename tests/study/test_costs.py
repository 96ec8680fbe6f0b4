"""What stages cost, by hand."""

from strategies import decoder, layer

from budwood.arch.count import forward_flops_per_token
from budwood.study.costs import Extent, check_cost, correction_cost, forward_of, proof_cost
from budwood.subnet.settings import Compensation

TEACHER = decoder("llama", 11, 8, *[layer(4, 4, 2, 10)] * 3, tied=True)
CHILD = decoder("llama", 11, 6, layer(2, 2, 2, 5), tied=True)
TEXT = Extent(count=3, length=7)
NO_REGRESSION = dict.fromkeys(("neurons", "channels", "heads", "layers"), False)


def test_corrections_without_a_regression_read_no_text() -> None:
    for settings in (None, Compensation(**NO_REGRESSION)):
        cost = correction_cost(TEACHER, CHILD, 1, settings, TEXT)
        assert (cost.flops, cost.tokens) == (0, 0)
    whole = correction_cost(TEACHER, TEACHER, 0, Compensation(), TEXT)
    assert (whole.flops, whole.tokens) == (0, 0)


def test_a_correction_costs_a_pass_of_the_teacher_and_its_regression() -> None:
    """Of 10 neurons 5 are kept: 2kn for every token, and k^3/3 + 2k^2(n - k)."""
    settings = Compensation(**NO_REGRESSION | {"neurons": True})
    cost = correction_cost(TEACHER, CHILD, 1, settings, TEXT)
    solved = 2 * 5 * 10 * 21 + 5**3 / 3 + 2 * 5**2 * 5
    assert cost.flops == 21 * forward_flops_per_token(TEACHER, context=7) + solved
    assert cost.tokens == 21


def test_a_certificate_costs_what_its_texts_do() -> None:
    """A token of a text of n costs n FLOPs here. Proofs read every text twice, checks alone and padded."""
    proof = proof_cost(float, (1, 16))
    assert (proof.stage, proof.tokens, proof.flops) == ("certificate", 2 * 17, 2 * (1 + 16 * 16))
    check = check_cost(float, (10, 4), num_chat_tokens=5)
    assert (check.tokens, check.flops) == (14 + 2 * 10 + 5, 100 + 16 + 20 * 10 + 25)
    assert check_cost(float, (10, 4), num_chat_tokens=0).tokens == 34
    assert forward_of(CHILD)(7) == forward_flops_per_token(CHILD, context=7)
