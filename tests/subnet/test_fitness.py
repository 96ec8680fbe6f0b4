"""What a search minimises: against Hugging Face, against a float64 reference, and a function of one's own."""

import sys
from types import ModuleType

import pytest
import torch
from teachers import FULL, TEACHERS, VOCAB_SIZE, architecture_of, every_family_and_tie, select, tiny_teacher, weights_of

from budwood.arch.selection import Selection
from budwood.models.losses import sequence_losses
from budwood.search.fitness import check_fitness
from budwood.search.settings import SearchSettings
from budwood.subnet.evaluate import ScoreEvaluator, SubnetEvaluator
from budwood.subnet.extract import extract_child
from budwood.subnet.fitness import TeacherDivergence, open_fitness
from budwood.subnet.importance import importance_of_weights
from budwood.subnet.ordering import order_teacher
from budwood.subnet.scoring import component_scores
from budwood.subnet.settings import Ordering

CHILD = select(33, [0, 1, 2], (2, 1, 8, 24))


def ordered(family="llama", *, tied=True):
    """Return a tiny teacher, ordered, in memory."""
    model = tiny_teacher(family, tied=tied)
    settings = Ordering(ordering="magnitude")
    return order_teacher(weights_of(model), model.config.to_dict(), architecture_of(model), settings).materialise(FULL)


@every_family_and_tie
def test_the_loss_is_that_of_hugging_face(teacher, windows):
    """Gemma 2 bends its logits after the head."""
    with torch.no_grad():
        expected = [teacher(input_ids=row[None], labels=row[None]).loss for row in windows]
    torch.testing.assert_close(sequence_losses(teacher, windows), torch.stack(expected))


@pytest.mark.parametrize("name", ["llama tied", "gemma2 untied"])
def test_divergence_equals_a_float64_reference(name, windows):
    family, tied = TEACHERS[name]
    teacher = ordered(family, tied=tied)
    evaluator = SubnetEvaluator(teacher=teacher, windows=windows, fitness=open_fitness("kl", teacher))
    measured = evaluator.one(CHILD).sequence_losses
    models = [extract_child(teacher, selection) for selection in (Selection.prefix(teacher.ranked), CHILD)]
    with torch.no_grad():
        wanted, found = (model(input_ids=windows[:, :-1]).logits.double().log_softmax(-1) for model in models)
    reference = (wanted.exp() * (wanted - found)).sum(-1).mean(-1)
    torch.testing.assert_close(torch.tensor(measured).double(), reference, rtol=1e-5, atol=1e-6)
    assert (reference > 0).all()


def test_nothing_diverges_from_itself_and_batches_are_told_apart(windows):
    teacher = ordered()
    measure = TeacherDivergence(teacher)
    whole = extract_child(teacher, Selection.prefix(teacher.ranked))
    for batch in (windows[:3], windows[3:], windows[:3]):
        assert measure(whole, batch).abs().max() < 1e-6


def test_divergence_charges_the_teachers_head(windows):
    teacher = ordered()
    plain, diverging = (
        SubnetEvaluator(teacher=teacher, windows=windows, fitness=open_fitness(name, teacher)).one(CHILD)
        for name in ("perplexity", "kl")
    )
    assert diverging.flops - plain.flops == 6 * 24 * 2 * VOCAB_SIZE * teacher.architecture.hidden_size


def test_a_function_of_the_users_own_gets_the_child_and_every_batch(windows, monkeypatch):
    """Here it counts how often a sequence holds token 0, and the child's channels."""
    module = ModuleType("mine")
    module.fitness = lambda child, batch: (batch == 0).sum(1) + child.config.hidden_size
    monkeypatch.setitem(sys.modules, "mine", module)
    teacher = ordered()
    fitness = open_fitness("mine.fitness", teacher)
    evaluator = SubnetEvaluator(teacher=teacher, windows=windows, batch_size=2, fitness=fitness)
    assert evaluator.one(CHILD).sequence_losses == ((windows == 0).sum(1) + 33).tolist()
    # Such a function may run the child as often as it likes.
    assert evaluator.groups([CHILD, CHILD]) == [[0], [1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "'loss' is none of perplexity, kl, importance, magnitude, and no function"),
        ("no.such.module", "no function of that path can be imported"),
        ("math.nothing", "no function of that path can be imported"),
        ("math.pi", "'math.pi' is no function of a model and token ids"),
    ],
)
def test_unknown_measures_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        check_fitness(name)


@pytest.mark.parametrize("name", ["perplexity", "kl", "importance", "magnitude", "math.sqrt"])
def test_known_measures_pass(name):
    check_fitness(name)


def test_scores_need_no_text():
    model = tiny_teacher("llama", tied=True)
    importance = importance_of_weights(weights_of(model), architecture_of(model))
    search = SearchSettings(fitness="magnitude")
    shares = component_scores(search, {"magnitude": importance}).normalised("sum")
    evaluate = ScoreEvaluator(shares=shares)
    ((place, evaluation),) = evaluate([CHILD], slice(0, 1))
    assert (place, evaluation.tokens, evaluation.flops) == (0, 0, 0.0)
    assert evaluation.sequence_losses == [-shares.of(CHILD)]
