"""What plans say of cuts and their correction, against sums worked by hand."""

from dataclasses import replace

import pandas as pd
import pytest
from papers import H100, MEASUREMENT, PYTHIA_69B, PYTHIA_410M, conditions, forecast, row, study

from budwood.arch.count import num_parameters
from budwood.records.workload import Workload
from budwood.study.costs import Correction, Extent
from budwood.study.plan import plan
from budwood.subnet.flops import layout_work, moment_work, refit_work, solve_work
from budwood.subnet.settings import Compensation

NO_TIME = dict.fromkeys(("panels", "entries", "moved"), 1e99)


@pytest.mark.parametrize(("refit", "num_passes"), [(64, 1), (65, 2 + 1 / 64)])
def test_compensation_is_a_pass_of_the_teacher_and_its_regressions(refit: int, num_passes: float) -> None:
    """Eight of the teacher's layers are dropped. A refit on the same text takes no pass of its own."""
    settings, measurement = Compensation(refit=True), MEASUREMENT.changed({"refit": refit})
    planned = plan(study(forecasts=(forecast(compensation=settings),), measurement=measurement), H100, 0.4)
    regressions = moment_work(PYTHIA_69B, PYTHIA_410M, settings, num_tokens=64 * 512, num_gaps=8).flops
    regressions += solve_work(PYTHIA_69B, PYTHIA_410M, settings, num_gaps=8).flops
    regressions += refit_work(PYTHIA_410M, num_tokens=refit * 512, context=512).flops
    teachers_pass = row(planned, "calibration", bin_name="")["flops"]
    assert row(planned, "compensation")["flops"] == pytest.approx(num_passes * teachers_pass + regressions)


def test_a_cut_takes_what_its_kinds_of_work_take_where_their_speed_was_tried() -> None:
    """A machine that needs no time for all but products and passes."""
    settings, text = Compensation(refit=True), Extent(64, 512)
    machine = replace(H100, speed=Workload(passes=2e12, products=1e12, **NO_TIME))
    planned = plan(study(forecasts=(forecast(compensation=settings),)), machine, 0.4)
    parts = moment_work(PYTHIA_69B, PYTHIA_410M, settings, num_tokens=text.num_tokens, num_gaps=8)
    parts += solve_work(PYTHIA_69B, PYTHIA_410M, settings, num_gaps=8)
    parts += refit_work(PYTHIA_410M, num_tokens=text.num_tokens, context=512)
    parts += layout_work(PYTHIA_69B, PYTHIA_410M, settings, num_passes=1)
    passes = row(planned, "calibration", bin_name="")["flops"] + parts.passes
    assert 3600 * row(planned, "compensation")["device_hours"] == pytest.approx(passes / 2e12 + parts.products / 1e12)
    proven = row(planned, "certificate")
    assert 3600 * proven["device_hours"] == pytest.approx(proven["flops"] / 1e12)
    # What copies weights alone takes all the time where nothing else does.
    copying = replace(H100, speed=Workload(passes=1e99, products=1e99, **(NO_TIME | {"moved": 1e9})))
    planned = plan(study(forecasts=(forecast(compensation=settings),)), copying, 0.4)
    moved = Correction(PYTHIA_69B, PYTHIA_410M, 8, settings, text, text).work().moved
    assert 3600 * row(planned, "compensation")["device_hours"] == pytest.approx(moved / 1e9)
    read = 3600 * row(planned, "calibration", bin_name="")["device_hours"]
    assert read == pytest.approx(num_parameters(PYTHIA_69B) / 1e9)
    # Of a token every layer makes 4E + 4E numbers, 3 of each of 32 x 512 scores, and 19E + 16E where it is scored.
    making = replace(H100, speed=Workload(passes=1e99, products=1e99, **(NO_TIME | {"entries": 1e9})))
    made = 3600 * row(plan(study(), making, 0.4), "calibration", bin_name="")["device_hours"]
    assert made == pytest.approx(text.num_tokens * 32 * ((8 + 35) * 4096 + 3 * 32 * 512) / 1e9)
    # Training is not among them, and a pace that a run has shown comes first.
    trained = [row(each, "training", "random_init") for each in (planned, plan(study(), H100, 0.4))]
    assert trained[0]["device_hours"] == trained[1]["device_hours"]
    shown = plan(study(), replace(copying, paces={"certificate": 1e12}), 0.4)
    assert 3600 * row(shown, "certificate")["device_hours"] == pytest.approx(row(shown, "certificate")["flops"] / 1e12)


def test_a_refit_may_read_more_text_than_the_rest_of_a_calibration() -> None:
    """Four times as much: nothing else is planned to cost more, but it takes more memory to cut."""
    own = conditions()
    longer = own.measurement.changed({"refit": 256})
    each = (forecast(compensation=Compensation(refit=True)),)
    planned, same = (plan(study(forecasts=each, measurement=text), H100, 0.4) for text in (longer, own.measurement))
    tokens = 64 * 512
    assert row(planned, "compensation")["tokens"] == 5 * tokens
    assert row(same, "compensation")["tokens"] == tokens
    assert row(planned, "compensation")["memory_bytes"] > row(same, "compensation")["memory_bytes"]
    others = [table[table["stage"] != "compensation"] for table in (planned, same)]
    pd.testing.assert_frame_equal(*others)
