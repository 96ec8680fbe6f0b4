"""The speed of a device: a known one is found again, and one is measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMOLLM2_135M

import budwood
from budwood.study.serving_speed import _timed

SIZES = _timed(SMOLLM2_135M)
RATES = st.floats(1e8, 1e13)


@given(layer=st.floats(0, 1e-3), rates=st.tuples(RATES, RATES), batch=st.sampled_from((1, 8)))
def test_a_known_speed_is_found_again(layer, rates, batch):
    known = budwood.ServingSpeed(layer_seconds=layer, bytes_per_second=rates[0], flops_per_second=rates[1])
    kinds = ({"num_tokens": 1, "context": 512}, {"num_tokens": 512, "context": 0})
    taken = [budwood.Timing(architecture=each, seconds=1, batch_size=batch, **kind) for each in SIZES for kind in kinds]
    timings = [budwood.Timing(**fields(each) | {"seconds": each.predicted(known)}) for each in taken]
    found = budwood.fit_serving_speed(timings)
    assert found.largest_error < 1e-3
    for each in timings:
        assert each.predicted(found.speed) == pytest.approx(each.seconds, rel=1e-3)


def fields(timing):
    return {name: getattr(timing, name) for name in timing.__dataclass_fields__}


def test_what_takes_no_time_has_no_bound():
    """Times that are alike for all sizes are those of layers."""
    timings = [
        budwood.Timing(architecture=each, seconds=0.001 * each.num_hidden_layers, num_tokens=1, context=0)
        for each in SIZES
    ]
    speed = budwood.fit_serving_speed(timings).speed
    assert speed.layer_seconds == pytest.approx(0.001)
    assert min(speed.bytes_per_second, speed.flops_per_second) > 1e20


def test_too_few_times_and_none_at_all_are_refused():
    timing = budwood.Timing(architecture=SMOLLM2_135M, seconds=0.0, num_tokens=1, context=0)
    with pytest.raises(ValueError, match="at least 3 models, got 1"):
        budwood.fit_serving_speed([timing])
    with pytest.raises(ValueError, match="needs seconds > 0"):
        budwood.fit_serving_speed([timing] * 3)


@pytest.mark.slow
def test_models_of_a_teacher_are_timed(materials):
    settings = budwood.EfficiencySettings(prompt_tokens=16, new_tokens=2, repeats=1)
    measured = budwood.measure_serving_speed(materials.teacher, settings=settings, device="cpu", precision="float32")
    assert len(measured.timings) == 2 * len(_timed(materials.teacher.architecture))
    assert {(each.num_tokens, each.context, each.weight_bits) for each in measured.timings} == {
        (16, 0, 32),
        (1, 17, 32),
    }
    predicted = [each.predicted(measured.speed) for each in measured.timings]
    assert all(0 < each < 1 for each in predicted)
    assert math.isfinite(measured.largest_error)


def test_timed_models_differ_in_all_that_takes_time():
    assert len(SIZES) == 8
    assert {each.num_hidden_layers for each in SIZES} == {5, 15}
    assert {each.hidden_size for each in SIZES} == {576, 288}
    assert {(each.layers[0].num_key_value_heads, each.layers[0].num_attention_heads) for each in SIZES} == {
        (3, 9),
        (1, 3),
    }
    assert {each.layers[0].intermediate_size for each in SIZES} == {1536, 768}
