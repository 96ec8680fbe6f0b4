"""Packed text is checked against what is asked of it."""

from projects import raw_parameters

from budwood.parameters import read_parameters
from budwood.pipelines.corpus.pipeline import create_pipeline


def test_text_is_checked_against_the_longest_training_of_any_bin():
    raw = raw_parameters("smoke")
    for name in ("half", "quarter"):
        raw["bins"] = {each: {**bin_, "schedule": {}} for each, bin_ in raw["bins"].items()}
        raw["bins"][name]["schedule"] = {"tokens": 100 * raw["schedule"]["tokens"]}
        (pack,) = (node for node in create_pipeline(read_parameters(raw)).nodes if node.name == "pack_documents")
        assert f"params:bin_conditions.{name}" in pack.inputs
