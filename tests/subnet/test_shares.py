"""Part of a head turns only where the family's class reads which; other classes turn whole heads whatever is stated."""

import json

import pytest
import torch
from corrections import logits_of
from teachers import SETTINGS, select, tiny_teacher

from budwood.arch.family import MODEL_TYPES
from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_config, load_model
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

IDS = torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(3))
WHOLE, HALF = ({"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": share} for share in (1.0, 0.5))


def teacher_of(family, rope):
    by_type = dict.fromkeys(("sliding_attention", "full_attention"), rope)
    # What a constant stands for is read from beside the frequencies.
    constants = {name: SETTINGS[family]["rope_parameters"][name] for name in MODEL_TYPES[family].rope_constants}
    stated = by_type if MODEL_TYPES[family].rope_by_type else rope | constants
    return tiny_teacher(family, tied=True, rope_parameters=stated)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_the_table_says_which_classes_read_a_share(family):
    whole, half = (logits_of(teacher_of(family, rope), IDS) for rope in (WHOLE, HALF))
    assert MODEL_TYPES[family].partial_rotary == (not torch.equal(whole, half))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "stablelm"])
def test_an_ordered_whole_computes_what_transformers_computes(family, tmp_path):
    model = teacher_of(family, HALF)
    model.save_pretrained(tmp_path)
    ordered = open_ordered(tmp_path, Ordering(ordering="magnitude"))
    child = extract_child(ordered, Selection.prefix(ordered.ranked))
    expected = logits_of(load_model(tmp_path, torch.float32), IDS)
    torch.testing.assert_close(logits_of(child, IDS), expected, rtol=1e-3, atol=1e-3)
    # Other engines believe what a class of transformers ignores.
    narrow = extract_child(ordered, select(48, [0, 1], (3, 2, 8, 20)))
    believed = "partial_rotary_factor" in json.dumps([child.config.to_dict(), narrow.config.to_dict()])
    assert believed == MODEL_TYPES[family].partial_rotary


def test_a_share_that_other_frequencies_are_made_for_is_refused(tmp_path):
    """Transformers opens such a Llama, and its first forward pass fails."""
    config = tiny_teacher("llama", tied=True).config.to_dict()
    config |= {"rope_parameters": HALF | {"rope_type": "linear", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"partial_rotary_factor=0.5 beside rope_type='linear' does not run"):
        load_config(tmp_path)
