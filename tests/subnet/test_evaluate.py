"""Losses are those that Hugging Face computes; a candidate's are those of its export."""

import pytest
import torch

from budwood.arch.count import forward_flops_per_token, layer_flops_per_token
from budwood.models.checkpoint import load_model, own_weights
from budwood.models.export import write_checkpoint
from budwood.models.losses import evaluating, sequence_losses
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.extract import extract_child


def test_losses_equal_those_of_hugging_face(teacher, windows):
    with torch.no_grad():
        expected = [teacher(input_ids=row[None], labels=row[None]).loss for row in windows]
    torch.testing.assert_close(sequence_losses(teacher, windows), torch.stack(expected))


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_batch_size_does_not_matter(teacher, windows, batch_size):
    expected = sequence_losses(teacher, windows, batch_size=2)
    torch.testing.assert_close(sequence_losses(teacher, windows, batch_size=batch_size), expected)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_after_an_error(teacher, training):
    teacher.train(training)
    modes = []

    def fail():
        with evaluating(teacher):
            modes.append(teacher.training)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert modes == [False]
    assert teacher.training is training
    teacher.eval()


def test_no_graph_is_kept(teacher, windows):
    losses = sequence_losses(teacher, windows[:1])
    assert not losses.requires_grad
    assert (losses.dtype, losses.device.type) == (torch.float32, "cpu")


def test_what_a_search_evaluates_is_what_is_exported(orders, selection, windows, teacher_folder, tmp_path):
    ordered = orders["activation", "preserve"]
    evaluation = SubnetEvaluator(teacher=ordered, windows=windows).one(selection)
    child = own_weights(extract_child(ordered, selection))
    exported = load_model(write_checkpoint(child, teacher_folder, tmp_path / "child"), torch.float32)
    torch.testing.assert_close(torch.tensor(evaluation.sequence_losses), sequence_losses(exported, windows))
    assert evaluation.tokens == 6 * 24
    assert evaluation.flops == 6 * 24 * forward_flops_per_token(
        selection.architecture(ordered.architecture), context=24
    )
    assert evaluation.seconds > 0


def test_what_a_latency_takes_is_counted(orders, selection, windows):
    """Three passes over 24 tokens, each with the logits of one."""
    ordered = orders["activation", "preserve"]
    sizes = selection.architecture(ordered.architecture)
    evaluators = [SubnetEvaluator(teacher=ordered, windows=windows, times=times) for times in (True, False)]
    timed, plain = (evaluator.one(selection) for evaluator in evaluators)
    assert timed.tokens - plain.tokens == 3 * 24
    one = 24 * layer_flops_per_token(sizes, *sizes.layers, context=24) + 2 * sizes.vocab_size * sizes.hidden_size
    assert timed.flops - plain.flops == 3 * one
