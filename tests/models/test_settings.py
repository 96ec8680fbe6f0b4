"""Settings of models are checked when they are written down."""

import pytest

from budwood.models.settings import ModelSizes, TeacherSettings

SIZES = {
    "model_type": "gpt_neox",
    "vocab_size": 50_304,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}


@pytest.mark.parametrize("given", [{}, {"model": "a/b", "random": {"hidden_size": 8}}], ids=["neither", "both"])
def test_there_is_exactly_one_source(given):
    with pytest.raises(ValueError, match="exactly one of `model`, `parts` and `random`"):
        TeacherSettings(**given)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "mixtral"}, "mixtral: mixtures of experts cannot be cut"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 1000}, "head_dim must be"),
        ({"num_hidden_layers": 200_000}, "num_hidden_layers=200000 must be between 1 and 1024"),
        ({"window": 3}, "Extra inputs"),
    ],
)
def test_impossible_sizes_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        ModelSizes(**SIZES | changes)


@pytest.mark.parametrize(
    ("given", "expected"), [({"model": "a/b"}, 2), ({"model": "./x.gguf"}, 4), ({"random": {"hidden_size": 8}}, 4)]
)
def test_the_bytes_of_a_parameter(given, expected):
    assert TeacherSettings(**given).bytes_per_parameter == expected
