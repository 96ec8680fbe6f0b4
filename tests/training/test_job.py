"""A job is checked before it starts, and its arithmetic is that of the Trainer."""

import pytest
from pydantic import ValidationError

from budwood.training.job import DistillationSettings, Schedule, TrainingJob
from budwood.training.losses import DistillationWeights


def schedule(**changes):
    return Schedule(**{"tokens": 1000, "sequence_length": 10, "global_batch": 8, "micro_batch": 2} | changes)


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (80, 1), (81, 2), (1000, 13)])
def test_tokens_are_rounded_up_to_whole_steps(tokens, steps):
    plan = schedule(tokens=tokens)
    assert (plan.tokens_per_step, plan.num_steps, plan.num_sequences) == (80, steps, 8 * steps)


def test_micro_batches_must_fill_the_global_batch():
    with pytest.raises(ValidationError, match="micro_batch=3 must divide global_batch=8"):
        schedule(micro_batch=3)


@pytest.mark.parametrize(
    "change",
    [{"tokens": 0}, {"micro_batch": 0}, {"warmup_ratio": 1.0}, {"max_grad_norm": 0}, {"checkpoint_steps": 0}, {"a": 1}],
    ids=str,
)
def test_impossible_schedules_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        schedule(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": -0.1},
        {"beta": -1},
        {"temperature": 0},
        {"loss": "top"},
        {"top_k": 0},
        {"num_samples": 256},
        {"divergence": "backward"},
        {"divergence": "reverse", "loss": "topk_tail"},
        {"divergence": "jensen_shannon", "loss": "sampled"},
        {"teacher": "cached"},
        {"teacher": "cached", "loss": "full"},
        {"hidden_weight": 0.1, "loss": "sampled", "teacher": "cached"},
        {"hidden_share": 0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        DistillationSettings(**change)


def test_the_papers_weights_are_the_default():
    settings = DistillationSettings()
    assert settings.weights == DistillationWeights(alpha=0.2, beta=0.8, temperature=1.0, divergence="forward")
    assert settings.top_k == 1024


def test_a_job_survives_json_and_cannot_be_changed(make_job):
    job = make_job(distillation=DistillationSettings(temperature=2.0))
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job
    with pytest.raises(ValidationError, match="frozen"):
        job.arm = "other"
