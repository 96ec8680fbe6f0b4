"""A checkpoint may hold parameters of several precisions: every child keeps each, and all stages run."""

import pytest
import torch
from corrections import compensate
from hypothesis import given, settings
from hypothesis import strategies as st
from teachers import FULL, HALF, architecture_of, measure_importance, select, tiny_teacher

from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_model, own_weights, save_checkpoint
from budwood.models.tensors import CheckpointTensors
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Compensation, Ordering

IDS = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(3))
CUT = select(24, [0, 1, 3], (2, 1, 8, 15))
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
PARTS = ["norm", "embed", "lm_head", "proj", "query_key_value", "dense"]


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
@settings(max_examples=2)
@given(dtypes=st.fixed_dictionaries({part: st.sampled_from(DTYPES) for part in PARTS}), tied=st.booleans())
def test_any_mixture_works_to_the_end(family, dtypes, tied, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    model = tiny_teacher(family, tied=tied)
    for name, parameter in model.named_parameters():
        part = next((part for part in PARTS if part in name), "proj")
        parameter.data = parameter.data.to(dtypes[part])
    save_checkpoint(model, tokenizer, folder / "teacher")
    loaded, architecture = load_model(folder / "teacher", torch.float32), architecture_of(model)
    importance = measure_importance(loaded, architecture, IDS)
    native = open_ordered(folder / "teacher", Ordering(ordering="native"))
    whole = extract_child(native, Selection.prefix(native.ranked))
    assert {name: parameter.dtype for name, parameter in whole.named_parameters()} == {
        name: parameter.dtype for name, parameter in model.named_parameters()
    }
    kinds = {parameter.dtype for parameter in model.parameters()}
    assert native.dtype == (kinds.pop() if len(kinds) == 1 else torch.float32)
    assert torch.equal(logits_of(whole.float()), logits_of(loaded))
    ordered = open_ordered(folder / "teacher", Ordering(layer_score="change"), importance)
    for compute in (FULL, HALF):
        evaluator = SubnetEvaluator(teacher=ordered.materialise(compute), windows=IDS)
        assert torch.tensor(evaluator.one(CUT).sequence_losses).isfinite().all()
    for child in (extract_child(ordered, CUT), compensate(ordered, CUT, IDS, Compensation())):
        exported = save_checkpoint(own_weights(child), tokenizer, folder / "child")
        again = load_model(exported, torch.float32).eval()
        assert torch.equal(logits_of(again), logits_of(child.float()))
        assert logits_of(again).isfinite().all()


def test_integers_are_no_weights(tmp_path):
    model = tiny_teacher("llama", tied=True)
    model.model.norm.weight = torch.nn.Parameter(torch.ones(48, dtype=torch.int8), requires_grad=False)
    model.save_pretrained(tmp_path)
    tensors = CheckpointTensors(tmp_path, architecture_of(model))
    with pytest.raises(ValueError, match=r"is stored as torch\.int8; supported: float16, bfloat16"):
        tensors["model.norm.weight"]
