"""The choice of a space by its probes, against values worked by hand."""

import numpy as np
import pandas as pd
import pytest

from budwood.records.training import ProbeScore
from budwood.reporting.selection import probe_losses, select_space, selection_section


def probe(losses: list[float]) -> ProbeScore:
    """Return a probe with some losses."""
    return ProbeScore.model_construct(num_parameters=33_600_000, tokens=2048, student_flops=4e11, losses=losses)


# Means 5, 4 and 6; coarse minus fine is 1, 2, 0 by sequence: mean 1, sample deviation 1, error 1 / sqrt(3).
PROBES = {"coarse": probe([4.0, 5.0, 6.0]), "fine": probe([3.0, 3.0, 6.0]), "other": probe([5.0, 5.0, 8.0])}


def curves() -> pd.DataFrame:
    """Return the curves of the probes; the first point between two evaluations has no held-out loss."""
    points = {"step": [0, 1, 2], "tokens": [0, 1024, 2048], "heldout_loss": [9.0, np.nan, 5.0]}
    return pd.concat([pd.DataFrame(points).assign(bin="half", space=space) for space in PROBES])


def test_the_lowest_mean_is_chosen_and_others_are_compared_in_pairs() -> None:
    table = select_space("half", PROBES)
    assert table["space"].tolist() == ["fine", "coarse", "other"]
    assert table["chosen"].tolist() == [True, False, False]
    assert table["loss"].tolist() == [4.0, 5.0, 6.0]
    assert table["difference"].tolist()[1:] == pytest.approx([1.0, 2.0])
    assert table["difference_standard_error"].tolist()[1:] == pytest.approx([1 / np.sqrt(3), 0.0])
    assert np.isnan(table["difference"][0])
    assert set(table["num_sequences"]) == {3}


def test_a_probe_without_a_finite_loss_loses() -> None:
    table = select_space("half", {"broken": probe([np.nan, 1.0, 1.0]), **PROBES})
    assert table["space"].iloc[0] == "fine"
    assert table["space"].iloc[-1] == "broken"
    with pytest.raises(ValueError, match="bin half: none of the probes of broken has a finite loss"):
        select_space("half", {"broken": probe([np.nan, 1.0])})


def test_words_tell_the_lead_and_whether_it_is_sure() -> None:
    text = selection_section(pd.concat([select_space("half", PROBES), select_space("tenth", {"only": probe([1.0])})]))
    assert "- **half**: `fine` is best, 1.00 ± 0.58 nats below `coarse` (within the noise)." in text
    assert "- **tenth**: `only` is its only space." in text
    sure = select_space("half", {"a": probe([1.0, 1.0, 1.0]), "b": probe([2.0, 2.1, 2.0])})
    assert "`a` is best, 1.033 ± 0.033 nats below `b` (beyond the noise)." in selection_section(sure)
    broken = select_space("half", {"a": probe([1.0, 1.0]), "b": probe([np.nan, 1.0])})
    assert "`a` is best, n/a nats below `b` (not decidable)." in selection_section(broken)


def test_the_chosen_space_has_the_thick_line() -> None:
    figure = probe_losses(curves(), select_space("half", PROBES))
    widths = {trace.name: trace.line.width for trace in figure.data}
    assert max(widths, key=widths.get) == "fine"
    assert len({trace.line.color for trace in figure.data}) == 3
    assert list(figure.data[0].x) == [0, 2048]


def test_without_any_probe_the_figure_is_empty() -> None:
    nothing = select_space("half", PROBES).iloc[:0]
    assert not probe_losses(curves().iloc[:0], nothing).data
