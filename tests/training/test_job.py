"""A job is checked before it starts, and its arithmetic is that of the Trainer."""

import re
from dataclasses import asdict

import pytest
from pydantic import ValidationError

from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.checkpoint import read_architecture
from budwood.training.job import TrainingJob
from budwood.training.settings import DistillationSettings, DistillationWeights, Schedule

LAYER = LayerSpec(num_attention_heads=1, num_key_value_heads=1, head_dim=4, intermediate_size=4)
SMALL = Architecture(family="llama", vocab_size=9, hidden_size=4, tie_word_embeddings=True, layers=(LAYER,))


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
    ("change", "message"),
    [
        ({"shape": "triangle"}, "Input should be 'cosine' or 'warmup_stable_decay'"),
        ({"optimizer": "sgd"}, "Input should be 'adamw' or 'muon'"),
        ({"preset": "mine"}, "preset='mine' is unknown; there are quickstart, where_to_begin_410m"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "give warmup_steps=1 or warmup_ratio=0.1, not both"),
        ({"warmup_steps": 13}, "warmup_steps=13 must be fewer than the run's 13"),
        ({"shape": "warmup_stable_decay", "warmup_ratio": 0.1}, "takes warmup_steps, not warmup_ratio"),
        ({"shape": "warmup_stable_decay", "warmup_steps": 11}, "must end before the decay begins, at step 10"),
    ],
    ids=str,
)
def test_schedules_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        schedule(**change)


@pytest.mark.parametrize(
    ("name", "peak", "warmup"),
    [("where_to_begin_410m", 3e-4, 0), ("where_to_begin_1b", 3e-4, 0), ("where_to_begin_2.8b", 1.6e-4, 238)],
)
def test_the_papers_tables_are_presets(name, peak, warmup):
    """Tables 3 to 8: AdamW 0.9/0.95, decay 0.01, clip 1.0, 1056 x 2048 tokens a step, 4,624 steps for 10B."""
    plan = Schedule(preset=name)
    assert (plan.tokens_per_step, plan.num_steps) == (2_162_688, 4_624)
    assert (plan.peak_learning_rate, plan.num_warmup_steps, plan.shape) == (peak, warmup, "cosine")
    assert (plan.optimizer, plan.betas, plan.weight_decay, plan.max_grad_norm) == ("adamw", (0.9, 0.95), 0.01, 1.0)
    assert plan.final_learning_rate_ratio * peak == pytest.approx(peak / 10)
    assert plan.seed == 42


def test_what_stands_beside_a_preset_holds():
    probe = Schedule(preset="where_to_begin_1b", tokens=2_000_000_000, micro_batch=16)
    assert (probe.num_steps, probe.micro_batch, probe.global_batch) == (925, 16, 1056)


def test_a_decay_is_the_last_share_of_the_steps():
    plan = schedule(shape="warmup_stable_decay", warmup_steps=1)
    assert (plan.num_steps, plan.decay_start) == (13, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_folder": None}, "give exactly one of model_folder and architecture"),
        ({"architecture": SMALL}, "give exactly one of model_folder and architecture"),
        ({"branch_folder": "b"}, "branch_folder needs shape=warmup_stable_decay, got cosine"),
        ({"engine": {"sharding": True, "launcher": "x"}, "optimizer": "muon"}, "sharding=true needs optimizer=adamw"),
        ({"initialisation": "best"}, "Input should be 'random' or 'checkpoint'"),
    ],
    ids=str,
)
def test_jobs_that_contradict_themselves_are_refused(make_job, change, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        make_job(**change)


def test_weights_of_an_architecture_can_only_be_random(make_job, model_folder):
    architecture = asdict(read_architecture(model_folder))
    make_job(model_folder=None, architecture=architecture, initialisation="random")
    with pytest.raises(ValidationError, match="initialisation='checkpoint' needs a model_folder with weights"):
        make_job(model_folder=None, architecture=architecture)


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
