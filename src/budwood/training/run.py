"""The only training loop: a Hugging Face Trainer set up from a job."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from budwood.arch.count import forward_flops_per_token, training_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.subnet.checkpoint import load_config, load_model, random_model, read_architecture
from budwood.subnet.device import Compute, choose_compute
from budwood.subnet.evaluate import sequence_losses
from budwood.subnet.export import write_checkpoint
from budwood.training.job import Schedule, TrainingJob
from budwood.training.objectives import objective_of
from budwood.training.student import Student
from budwood.training.teacher import check_teacher

Track = Callable[[Mapping[str, float], int], None]
"""Takes metrics and the optimiser step they belong to."""

RESULT = "result.json"
CURVE = "curve.jsonl"
CURVE_ROWS = 100
"""Training losses of a run, at least, where it has as many steps."""
MODEL = "model"


def train(job: TrainingJob, track: Track | None = None) -> dict[str, Any]:
    """Run a job to its end and return its result.

    A job whose folder holds a result is not run again; one that was interrupted continues at its newest checkpoint.

    Args:
        job: what to train.
        track: receives losses while they arise, for a tracking server.

    Returns:
        tokens, steps, seconds, FLOPs, device and precision; the trained checkpoint stands in `output_folder/model`,
        the curve in `output_folder/curve.jsonl`.

    Raises:
        ValueError: the corpus is too small, or the teacher cannot teach (see `budwood.training.teacher.check_teacher`).
        FloatingPointError: the loss is not finite.
    """
    result_file = job.output_folder / RESULT
    if result_file.is_file():
        replay_curve(job, track)
        return dict(json.loads(result_file.read_text()))
    compute = choose_compute(job.device, job.precision)
    corpus = PackedCorpus.open(job.corpus_folder)
    sequences = _Sequences(corpus, job.schedule)
    heldout = torch.from_numpy(corpus.windows("validation", job.schedule.sequence_length, limit=job.heldout_windows))
    if job.distillation is not None:
        check_teacher(job, corpus, sequences.starts)
    student, objective = _student(job), objective_of(job, compute)
    curve = _Curve(job, heldout, track)
    trainer = Trainer(
        model=Student(student, objective),
        args=training_arguments(job, compute),
        train_dataset=sequences,
        data_collator=_collate,
        callbacks=[curve],
    )
    drop_torn_checkpoints(job.output_folder)
    checkpoint = get_last_checkpoint(str(job.output_folder)) if job.output_folder.is_dir() else None
    trainer.train(resume_from_checkpoint=checkpoint)
    write_checkpoint(student, job.teacher_folder, job.output_folder / MODEL)
    result = _result(job, compute, curve.seconds)
    _write_atomically(result_file, json.dumps(result))
    for stale in job.output_folder.glob("checkpoint-*"):
        shutil.rmtree(stale)
    return result


def drop_torn_checkpoints(output_folder: Path) -> None:
    """Remove checkpoints that a kill has left unfinished: the Trainer writes its state last."""
    for folder in output_folder.glob("checkpoint-*"):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text())
        except (OSError, json.JSONDecodeError):
            shutil.rmtree(folder)


def training_order(corpus: PackedCorpus, schedule: Schedule) -> NDArray[np.int64]:
    """Return where the sequences of a whole run begin, in the order in which every arm of a seed reads them.

    A run longer than the training split reads it again in another order.

    Raises:
        ValueError: the training split holds less than one optimiser step.
    """
    starts = corpus.window_starts("train", schedule.sequence_length)
    if len(starts) < schedule.global_batch:
        raise ValueError(
            f"the training split holds {len(starts)} sequences of {schedule.sequence_length} tokens, fewer than one "
            f"step of global_batch={schedule.global_batch}; add text or shorten the sequences"
        )
    rng = np.random.default_rng(schedule.seed)
    epochs = -(-schedule.num_sequences // len(starts))
    return np.concatenate([rng.permutation(starts) for _ in range(epochs)])[: schedule.num_sequences]


def training_arguments(job: TrainingJob, compute: Compute) -> TrainingArguments:
    """Translate a job for the Trainer."""
    schedule = job.schedule
    arguments = TrainingArguments(
        output_dir=str(job.output_folder),
        max_steps=schedule.num_steps,
        per_device_train_batch_size=schedule.micro_batch,
        gradient_accumulation_steps=schedule.global_batch // schedule.micro_batch,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": schedule.final_learning_rate_ratio},
        warmup_steps=math.ceil(schedule.warmup_ratio * schedule.num_steps),
        optim="adamw_torch_fused",
        adam_beta1=schedule.betas[0],
        adam_beta2=schedule.betas[1],
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        bf16=compute.precision == "bfloat16",
        use_cpu=compute.device.type == "cpu",
        logging_steps=_steps_per_row(schedule),
        # The filter hides steps whose loss is not a number, and waits for the device at every micro-batch.
        logging_nan_inf_filter=False,
        save_steps=schedule.checkpoint_steps,
        save_total_limit=2,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        seed=schedule.seed,
        report_to="none",
        dataloader_pin_memory=compute.device.type == "cuda",
        ddp_find_unused_parameters=False,
    )
    # One process drives one device: with several, the Trainer would wrap the student in nn.DataParallel.
    arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001
    return arguments


def _steps_per_row(schedule: Schedule) -> int:
    """Return how many steps a row of the curve averages: none spans a checkpoint, where a resumed run would cut it."""
    about = max(1, schedule.num_steps // CURVE_ROWS)
    return max(steps for steps in range(1, about + 1) if schedule.checkpoint_steps % steps == 0)


class _Sequences(Dataset[dict[str, Tensor]]):
    """Sequences of the token file by index, so that a resumed run skips without reading."""

    def __init__(self, corpus: PackedCorpus, schedule: Schedule) -> None:
        self.corpus, self.length = corpus, schedule.sequence_length
        self.starts = training_order(corpus, schedule)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.corpus.read(self.starts[index] + np.arange(self.length + 1)))
        progress = torch.tensor(index / len(self.starts), dtype=torch.float32)
        return {"tokens": tokens, "starts": torch.tensor(self.starts[index]), "progress": progress}


def _collate(sequences: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch, starts, progress = (
        torch.stack([sequence[name] for sequence in sequences]) for name in ("tokens", "starts", "progress")
    )
    # `shift_labels` and not `labels`: the Trainer counts them as they are when it normalises over micro-batches.
    return {"input_ids": batch[:, :-1], "shift_labels": batch[:, 1:], "starts": starts, "progress": progress}


class _Curve(TrainerCallback):
    """Writes the training and held-out losses of a run, and stops one that diverges."""

    def __init__(self, job: TrainingJob, heldout: Tensor, track: Track | None) -> None:
        self.job, self.heldout, self.track = job, heldout, track
        self.file = job.output_folder / CURVE
        self.started = time.perf_counter()
        self.seconds = 0.0
        num_steps, count = job.schedule.num_steps, job.schedule.num_evaluations
        self.evaluation_steps = {round(num_steps * (i + 1) / count) for i in range(count)}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        del args, control
        self._forget_after(state.global_step)
        replay_curve(self.job, self.track)
        self.started = time.perf_counter()
        if state.global_step == 0:
            self._evaluate(kwargs["model"], 0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control
        if state.global_step in self.evaluation_steps:
            self._evaluate(kwargs["model"], state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, control
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"arm {self.job.arm}: the training loss is {loss} at step {state.global_step}; lower learning_rate "
                f"({self.job.learning_rate}) or continue from the last checkpoint in {self.job.output_folder}"
            )
        self._add(state.global_step, {"train_loss": loss, "learning_rate": float(logs["learning_rate"])})

    def _evaluate(self, student: Student, step: int) -> None:
        losses = sequence_losses(student.model, self.heldout)
        self._add(step, {"heldout_loss": float(losses.mean()), "heldout_losses": losses.tolist()})

    def _add(self, step: int, metrics: dict[str, Any]) -> None:
        self.seconds = time.perf_counter() - self.started
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step} | metrics) + "\n")
        _tell(self.track, self.job.arm, {"step": step} | metrics)

    def _forget_after(self, step: int) -> None:
        """Drop what an interrupted run wrote after its checkpoint: those steps are trained again."""
        rows = [row for row in read_curve(self.job.output_folder) if row["step"] <= step] if step else []
        _write_atomically(self.file, "".join(json.dumps(row) + "\n" for row in rows))


def replay_curve(job: TrainingJob, track: Track | None) -> None:
    """Tell a tracker what an earlier process has measured of this run, so that its curves are whole."""
    for row in read_curve(job.output_folder):
        _tell(track, job.arm, row)


def _tell(track: Track | None, arm: str, row: Mapping[str, Any]) -> None:
    if track:
        curves = {name: value for name, value in row.items() if name not in {"step", "heldout_losses"}}
        track({f"{arm}.{name}": value for name, value in curves.items()}, int(row["step"]))


def read_curve(output_folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's curve: `step` with `train_loss` and `learning_rate`, or with `heldout_loss`.

    `heldout_losses` are the same by sequence, always in the same order.
    """
    file = output_folder / CURVE
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


def _student(job: TrainingJob) -> PreTrainedModel:
    if job.initialisation == "random":
        rope = load_config(job.teacher_folder)["rope_parameters"]
        base = load_config(job.model_folder) | {"rope_parameters": rope}
        return random_model(base, read_architecture(job.model_folder), job.schedule.seed)
    # float32 masters whatever the precision of the products.
    return load_model(job.model_folder, torch.float32)


def _result(job: TrainingJob, compute: Compute, seconds: float) -> dict[str, Any]:
    tokens, length = job.schedule.num_steps * job.schedule.tokens_per_step, job.schedule.sequence_length
    student_flops = training_flops_per_token(read_architecture(job.model_folder), context=length)
    teacher_flops = 0
    if job.distillation is not None and job.distillation.teacher == "live":
        teacher_flops = forward_flops_per_token(read_architecture(job.teacher_folder), context=length)
    return {
        "arm": job.arm,
        "tokens": tokens,
        "steps": job.schedule.num_steps,
        "tokens_per_step": job.schedule.tokens_per_step,
        "student_flops": float(tokens * student_flops),
        "teacher_flops": float(tokens * teacher_flops),
        "learning_rate": job.learning_rate,
        "seconds": seconds,
        "device": compute.describe(),
        "precision": compute.precision,
    }


def _write_atomically(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)
