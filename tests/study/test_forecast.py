"""What a search may find, drawn before it runs."""

from dataclasses import replace

from strategies import SMOLLM2_135M

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import SearchSpace
from budwood.study.forecast import draw_members


def test_members_lie_in_the_bin_and_fine_ones_are_written_down_at_length() -> None:
    coarse = SearchSpace(teacher=SMOLLM2_135M, layerwise=True, alignment=16)
    parameter_bin = ParameterBin.around(67e6)
    members, written = draw_members(coarse, parameter_bin, num_members=5)
    assert len(members) == 5
    assert all(num_parameters(member) in parameter_bin for member in members)
    fine = replace(coarse, granularity="fine")
    same, more = draw_members(fine, parameter_bin, num_members=5)
    assert same == members
    assert more > 10 * written
