"""Bins and spaces that do not fit a teacher are refused before anything expensive."""

import pytest
from strategies import SIZES, SMOLLM2_135M

from budwood.arch.count import num_parameters
from budwood.records.teacher import IntakeRecord, TeacherRecord
from budwood.study.settings import BinSettings
from budwood.study.space import enumerate_spaces
from budwood.subnet.settings import SpaceSettings

COARSE = {"coarse": SpaceSettings(layerwise=False)}
RECORD = TeacherRecord(
    name="teacher",
    revision="local",
    model_type="llama",
    num_parameters=num_parameters(SMOLLM2_135M),
    fingerprint="0",
    license="none",
    attribution="",
    num_token_ids=49152,
    intake=IntakeRecord(num_tokens=48, dtype="float32", tolerance=1e-4, reading_difference=0.0, cut_difference=1e-6),
    architecture=SMOLLM2_135M,
)


def test_bins_that_overlap_are_refused():
    bins = {"half": BinSettings(fraction=0.5), "most": BinSettings(fraction=0.54)}
    with pytest.raises(ValueError, match=r"bins 'half' .* and 'most' .* overlap"):
        enumerate_spaces(RECORD, bins, COARSE, {"half": ["coarse"], "most": ["coarse"]})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "qwen2"}, "the family 'qwen2' cannot be trained beside a teacher of the family 'llama'"),
        ({"vocab_size": 256}, "vocab_size=256 must have the 49152 tokens of the teacher's tokenizer"),
    ],
)
def test_a_reference_that_cannot_be_trained_is_refused(changes, expected):
    bins = {"half": BinSettings(fraction=0.5, reference=SIZES | changes)}
    with pytest.raises(ValueError, match=r"bins\.half\.reference") as error:
        enumerate_spaces(RECORD, bins, COARSE, {"half": ["coarse"]})
    assert expected in str(error.value)


def test_a_bin_out_of_reach_is_refused_with_the_range():
    with pytest.raises(ValueError, match="cannot be reached: sub-networks of this teacher have") as error:
        enumerate_spaces(RECORD, {"half": BinSettings(fraction=1e-5)}, COARSE, {"half": ["coarse"]})
    assert "bins.half in spaces.coarse: the parameter bin" in str(error.value)
