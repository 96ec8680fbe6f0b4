"""What a run learns and leaves, and law 6 in space: how it is portioned changes nothing."""

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import KilledError, assert_same, kill_at, weights
from safetensors.torch import load_file
from transformers import AutoTokenizer

from budwood.arch.count import forward_flops_per_token, training_flops_per_token
from budwood.corpus.packing import PackedCorpus, read_index, write_index
from budwood.models.checkpoint import load_config, load_model, random_model, read_architecture
from budwood.models.losses import sequence_losses
from budwood.records.training import Run
from budwood.training import callbacks, checkpoints, run
from budwood.training.checkpoints import whole_checkpoint
from budwood.training.curve import read_curve
from budwood.training.objectives import Objective
from budwood.training.order import training_order
from budwood.training.run import train
from budwood.training.settings import DistillationSettings, Engine
from budwood.training.student import Student

pytestmark = pytest.mark.slow

PLAIN = DistillationSettings()
OBJECTIVES = {"next token": None, "distillation": PLAIN}


def test_a_run_learns_and_leaves_a_checkpoint_a_curve_and_a_result(make_job, model_folder, corpus_folder):
    job = make_job(tokens=20 * 8 * 12, distillation=PLAIN)
    tracked = []
    result = train(job, lambda metrics, step: tracked.append((step, metrics)))
    curve = read_curve(job.output_folder)
    heldout = {row["step"]: row["heldout_loss"] for row in curve if "heldout_loss" in row}
    assert sorted(heldout) == [0, 10, 20]
    assert heldout[20] < heldout[0] - 0.5
    assert [row["step"] for row in curve if "train_loss" in row] == list(range(1, 21))
    by_sequence = {row["step"]: row.pop("heldout_losses") for row in curve if "heldout_losses" in row}
    assert {step: pytest.approx(sum(losses) / 4) for step, losses in by_sequence.items()} == heldout
    told = [(row["step"], {name: value for name, value in row.items() if name != "step"}) for row in curve]
    rates = {"grad_norm", "tokens_per_second"}
    assert [(step, {name: metrics[name] for name in metrics.keys() - rates}) for step, metrics in tracked] == told
    assert all((metrics.keys() >= rates) == ("train_loss" in metrics) for _, metrics in tracked)
    windows = torch.from_numpy(PackedCorpus.open(corpus_folder).windows("validation", 12, limit=4))
    for step, folder in ((0, model_folder), (20, job.output_folder / "model")):
        losses = sequence_losses(load_model(folder, torch.float32), windows)
        assert float(losses.mean()) == pytest.approx(heldout[step], rel=1e-6)
    student, teacher = (read_architecture(folder) for folder in (model_folder, job.teacher_folder))
    assert (result.tokens, result.steps, result.tokens_per_step) == (1920, 20, 96)
    assert result.student_flops == 1920 * training_flops_per_token(student, context=12)
    assert result.teacher_flops == 1920 * forward_flops_per_token(teacher, context=12)
    assert Run.model_validate_json((job.output_folder / "result.json").read_text()) == result
    assert not list(job.output_folder.glob("checkpoint-*"))


def test_the_checkpoint_has_the_teachers_tokenizer_and_float32_weights(make_job):
    job = make_job(tokens=1)
    train(job)
    assert {tensor.dtype for tensor in weights(job).values()} == {torch.float32}
    vocabularies = [
        AutoTokenizer.from_pretrained(f).get_vocab() for f in (job.teacher_folder, job.output_folder / "model")
    ]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_do_not_matter(make_job, objective):
    jobs = [make_job(str(size), micro_batch=size, distillation=OBJECTIVES[objective]) for size in (8, 1)]
    for job in jobs:
        train(job)
    whole, single = (weights(job) for job in jobs)
    before = load_file(jobs[0].model_folder / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(single[name], tensor, rtol=0, atol=1e-5)
    assert max(float((whole[name] - before[name]).abs().max()) for name in whole) > 0.01
    for one, other in zip(*(read_curve(job.output_folder) for job in jobs), strict=True):
        losses = [row.pop("heldout_losses", []) for row in (one, other)]
        assert one == pytest.approx(other, rel=1e-4)
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_dropout_in_a_configuration_changes_nothing_and_is_exported(make_job, model_folder, tmp_path):
    dropping = shutil.copytree(model_folder, tmp_path / "dropping")
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    plain = make_job("plain")
    jobs = [make_job(str(size), micro_batch=size, model_folder=dropping) for size in (8, 2)]
    for job in (plain, *jobs):
        train(job)
    assert_same(plain, jobs[0])
    whole, portioned = (
        [row["train_loss"] for row in read_curve(job.output_folder) if "train_loss" in row] for job in jobs
    )
    assert whole == pytest.approx(portioned, rel=1e-5)
    assert load_config(jobs[0].output_folder / "model")["attention_dropout"] == 0.5


def test_distillation_without_divergence_is_pretraining_step_for_step(make_job):
    pretrained = make_job("pretrained")
    distilled = make_job("distilled", distillation=DistillationSettings(alpha=1.0, beta=0.0))
    for job in (pretrained, distilled):
        train(job)
    assert_same(distilled, pretrained)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_masters_and_moments_are_float32(make_job, precision):
    job = make_job(precision=precision)
    with pytest.raises(KilledError):
        train(job, kill_at(3))
    checkpoint = job.output_folder / "checkpoint-2"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    assert state
    assert {entry[name].dtype for entry in state.values() for name in ("exp_avg", "exp_avg_sq")} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(checkpoint / "model.safetensors").values()} == {torch.float32}


def test_random_weights_come_from_the_jobs_seed_alone(make_job):
    jobs = [
        make_job(str(i), initialisation="random", tokens=1, learning_rate=1e-12, seed=s)
        for i, s in enumerate((5, 5, 6))
    ]
    for noise, job in enumerate(jobs):
        torch.manual_seed(noise)
        train(job)
    assert_same(*jobs[:2])
    one, other = weights(jobs[0]), weights(jobs[2])
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(one[name], other[name])
    assert not torch.allclose(one[name], load_file(jobs[0].model_folder / "model.safetensors")[name])
    assert float(one[name].std()) == pytest.approx(0.02, rel=0.2)


def test_divergence_stops_the_run_before_it_is_saved_and_names_the_last_good_checkpoint(make_job):
    job = make_job(learning_rate=1e30, max_grad_norm=1e30, checkpoint_steps=1)
    with pytest.raises(FloatingPointError, match=r"arm child: the training loss is .* at step \d: ") as error:
        train(job)
    good = whole_checkpoint(job.output_folder)
    assert str(good or "the start, none was saved") in str(error.value)
    assert good is None or all(bool(t.isfinite().all()) for t in load_file(good / "model.safetensors").values())
    assert not (job.output_folder / "result.json").exists()


def test_a_loss_far_above_guessing_is_divergence_though_it_is_finite(make_job, monkeypatch):
    monkeypatch.setattr(callbacks, "divergence_limit", lambda size, _, weight, *__: math.log(size) / weight)
    train(make_job("guessing"))
    with pytest.raises(FloatingPointError, match=r"at step 1: the run diverges.*the start, none was saved; lower"):
        train(make_job("half", distillation=DistillationSettings(alpha=3.0)))


@pytest.mark.parametrize(
    ("untrained", "weight", "first", "limit"),
    [(3.0, 1.0, 3.0, 2 * 5.5490761), (8.0, 1.0, 7.0, 16.0), (8.0, 0.5, 1.0, 8.0), (8.0, 0.5, 9.0, 18.0)],
)
def test_a_run_has_diverged_at_twice_the_loss_of_guessing_or_of_its_start(untrained, weight, first, limit):
    assert callbacks.divergence_limit(257, untrained, weight, first) == pytest.approx(limit)


def test_the_first_loss_of_an_objective_is_kept_over_a_kill(make_job, monkeypatch):
    """It may lie far above guessing; only one that doubles from there is divergence."""
    limits = []
    monkeypatch.setattr(callbacks, "divergence_limit", lambda *given: limits.append(given[-1]) or math.inf)
    job = make_job(checkpoint_steps=1)
    with pytest.raises(KilledError):
        train(job, kill_at(3))
    train(job)
    assert len(limits) > 6
    assert set(limits) == {limits[0]}
    assert limits[0] == pytest.approx(read_curve(job.output_folder)[1]["train_loss"])


def test_checkpoints_that_a_kill_left_beside_a_result_are_removed(make_job):
    job = make_job()
    result = train(job)
    (job.output_folder / "checkpoint-2").mkdir()
    (job.output_folder / "partial" / "checkpoint-3").mkdir(parents=True)
    assert train(job) == result
    assert not list(job.output_folder.glob("*/checkpoint-*"))
    assert not list(job.output_folder.glob("checkpoint-*"))


def test_an_update_that_is_not_finite_is_never_saved(make_job):
    """The loss and the gradient of the first step are finite, the weights after it are not."""
    job = make_job(learning_rate=1e38, max_grad_norm=1e30, checkpoint_steps=1, weight_decay=1e3)
    with pytest.raises(FloatingPointError, match=r"at step 1: .* the start, none was saved"):
        train(job)


@pytest.mark.parametrize("shape", ["cosine", "warmup_stable_decay"])
def test_the_learning_rate_follows_its_formula(make_job, shape):
    job = make_job(tokens=10 * 8 * 12, shape=shape, warmup_steps=2, final_learning_rate_ratio=0.1, decay_ratio=0.4)
    train(job)
    rates = [row["learning_rate"] / 0.01 for row in read_curve(job.output_folder) if "learning_rate" in row]
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    stable = [1.0] * 4 + [0.1 + 0.9 * (1 - math.sqrt(step / 4)) for step in range(4)]
    rising = [0.0, 0.5] if shape == "cosine" else [0.1, 0.55]
    assert rates == pytest.approx(rising + (cosine if shape == "cosine" else stable))


def test_muon_learns(make_job):
    job = make_job(optimizer="muon")
    train(job)
    heldout = [row["heldout_loss"] for row in read_curve(job.output_folder) if "heldout_loss" in row]
    assert heldout[-1] < heldout[0] - 0.3


def test_activations_computed_anew_change_no_bit(make_job):
    jobs = [
        make_job(str(again), engine=Engine(activation_checkpointing=again, compile_loss="off"))
        for again in (False, True)
    ]
    for job in jobs:
        train(job)
    assert_same(*jobs)


# Dynamo looks at the gradient of every tensor that comes in.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_layers_learn_the_same(make_job, monkeypatch):
    compiled = []
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda module: compiled.append(type(module).__name__) or compile_module(module, backend="eager"),
    )
    taught = DistillationSettings()
    jobs = [make_job(str(i), engine=Engine(compile=i, compile_loss="off"), distillation=taught) for i in (False, True)]
    for job in jobs:
        train(job)
    assert compiled == ["LlamaDecoderLayer"]  # of the student; `compile_teacher` is the teacher's
    one, other = (weights(job) for job in jobs)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_no_room_for_checkpoints_is_found_before_anything_is_loaded(make_job, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(OSError, match=r"3 checkpoints of \d,\d+ parameters .* 0\.00 GB are free; make room, lower"):
        train(make_job())


def test_sequences_longer_than_the_models_positions_are_refused(make_job):
    with pytest.raises(ValueError, match=r"sequence_length=4096 exceeds the 2048 positions of "):
        train(make_job(sequence_length=4096))


def test_processes_must_divide_the_batch(make_job, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="global_batch=8 must be a multiple of micro_batch=8 times the 3 processes"):
        train(make_job())


def test_weights_are_shared_out_by_a_launcher_alone_and_never_on_a_cpu(make_job):
    with pytest.raises(ValueError, match="sharding=true needs a launcher"):
        train(make_job(engine=Engine(sharding=True, compile_loss="off")))
    with pytest.raises(ValueError, match="sharding=true needs accelerators"):
        train(make_job(engine=Engine(sharding=True, launcher="torchrun", compile_loss="off")))


def test_an_architecture_alone_is_trained_from_random_weights(make_job, teacher_folder):
    teacher = read_architecture(teacher_folder)
    half = teacher.with_layers(teacher.layers[:1])
    settings = {"model_folder": None, "initialisation": "random", "learning_rate": 1e-12}
    job = make_job(architecture=asdict(half), **settings)
    result = train(job)
    assert read_architecture(job.output_folder / "model") == half
    assert result.student_flops == 576 * training_flops_per_token(half, context=12)
    seed = job.schedule.seed
    expected = dict(random_model(load_config(teacher_folder), half, seed).named_parameters())
    assert all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in weights(job).items())


def test_random_weights_get_the_plain_frequencies_whatever_the_teacher_turns_at(make_job, teacher_folder, tmp_path):
    """A list of factors for the teacher's heads would fit no other head; a kept base would be an odd one."""
    folder = Path(shutil.copytree(teacher_folder, tmp_path / "listed"))
    config = json.loads((folder / "config.json").read_text())
    factors = [1.5] * (read_architecture(folder).layers[0].head_dim // 2)
    rope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0}
    rope |= {"rope_theta": 10_000.0, "original_max_position_embeddings": config["max_position_embeddings"]}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    whole = read_architecture(folder)
    narrow = whole.with_layers(tuple(replace(layer, head_dim=2) for layer in whole.layers))
    job = make_job(architecture=asdict(narrow), model_folder=None, initialisation="random", teacher_folder=folder)
    model = run._student(job)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}
    assert model.base_model.rotary_emb.inv_freq.tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_updates_added_to_half_precision_are_caught(model_folder, dtype):
    model = load_model(model_folder, dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    Student(model, Objective())(**dict.fromkeys(("input_ids", "shift_labels"), torch.ones(1, 4, dtype=int)))[
        "loss"
    ].backward()
    optimizer.step()
    with nullcontext() if dtype is torch.float32 else pytest.raises(AssertionError, match="weights must be float32"):
        callbacks._assert_float32(model, optimizer)
    if dtype is torch.bfloat16:
        with pytest.raises(AssertionError, match="state must be float32"):
            callbacks._assert_float32(model.float(), optimizer)


def test_a_resumed_run_reads_on_where_it_stopped_without_reading_what_it_skips(make_job, monkeypatch):
    job = make_job(global_batch=4, micro_batch=2)
    order = training_order(PackedCorpus.open(job.corpus_folder), job.schedule)
    monkeypatch.setattr(PackedCorpus, "read", lambda _, start, length: start + np.arange(length + 1))
    resumed = run._Sequences(job, 3)
    assert len(resumed) == len(order)
    assert [int(resumed[i]["starts"]) for i in range(len(order) - 12)] == order[12:].tolist()


def test_sequences_begin_with_the_first_token_of_the_corpus(make_job, tmp_path):
    job = make_job()
    folder = shutil.copytree(job.corpus_folder, tmp_path / "corpus")
    write_index(folder, read_index(folder) | {"bos_token_id": 256}, {})
    plain, begun = run._Sequences(job, 0), run._Sequences(job.model_copy(update={"corpus_folder": folder}), 0)
    for index in range(8):
        assert begun[index]["tokens"][0] == 256
        assert torch.equal(begun[index]["tokens"][1:], plain[index]["tokens"][1:])


def test_a_text_shorter_than_one_step_is_refused(make_job):
    with pytest.raises(ValueError, match=r"has \d+ sequences of 12 tokens, fewer than one step of global_batch=512"):
        train(make_job(global_batch=512))


def test_too_few_heldout_windows_are_refused(make_job):
    with pytest.raises(ValueError, match="split 'validation' has"):
        train(make_job(heldout_windows=10_000))


def test_every_epoch_reads_every_sequence_once_in_an_order_of_its_own(make_job, corpus_folder):
    corpus = PackedCorpus.open(corpus_folder)
    starts = corpus.window_starts("train", 12)
    count = len(starts)
    schedule = make_job(tokens=12 * 2 * count, global_batch=1, micro_batch=1).schedule
    order = training_order(corpus, schedule)
    first, second = order[:count], order[count:]
    assert sorted(first) == sorted(second) == sorted(starts)
    assert not np.array_equal(first, second)
    assert np.array_equal(training_order(corpus, schedule), order)
    assert not np.array_equal(training_order(corpus, schedule.model_copy(update={"seed": 1})), order)
