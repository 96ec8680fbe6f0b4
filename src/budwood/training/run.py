"""The only training loop: a Hugging Face Trainer set up from a job."""

import os
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import DistributedType
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from budwood import __version__
from budwood.arch.count import forward_flops_per_token, training_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import (
    build_empty,
    load_config,
    load_model,
    random_model,
)
from budwood.models.device import Compute, reusing_memory
from budwood.models.export import write_checkpoint
from budwood.models.rotary import standard_rope
from budwood.records.files import write_atomically
from budwood.records.locks import holding
from budwood.records.seal import SEAL, damage, seal
from budwood.records.tracking import Track
from budwood.records.training import Run
from budwood.training.callbacks import Keeper, Recorder, stop_on_signals
from budwood.training.checkpoints import PARTIAL, checkpoints_of, step_of, whole_checkpoint
from budwood.training.checks import check_job
from budwood.training.curve import CURVE_FILE, Curve, replay_curve
from budwood.training.job import TrainingJob
from budwood.training.objectives import objective_of
from budwood.training.optimizer import muon_with_adamw
from budwood.training.order import reading_order
from budwood.training.progress import Meter
from budwood.training.student import Student
from budwood.training.teacher import asked_architecture, open_cache, student_architecture, teacher_beside
from budwood.training.trackers import name_of, own_run

RUN_FILE = "result.json"
MODEL = "model"


class TrainingStoppedError(RuntimeError):
    """A run was asked to stop and has saved its state; the same job continues it."""


def train(job: TrainingJob, track: Track | None = None) -> Run:
    """Run a job to its end and return what it did.

    A job whose folder contains a result is not run again; one that was interrupted continues from its newest undamaged
    checkpoint. Under a launcher every process calls this, and the first one writes.

    Returns:
        the run; its trained checkpoint is in `output_folder/model`, the curve in `output_folder/curve.jsonl`.

    Raises:
        ValueError: the job does not fit its files or this machine (see `check_job`), or its result is damaged.
        FolderInUseError: another process is training in the job's folder.
        OSError: checkpoints do not fit on the disk.
        FloatingPointError: the run diverges.
        TrainingStoppedError: SIGTERM or Ctrl-C stopped it.
    """
    first = os.environ.get("RANK", "0") == "0"
    with holding(job.output_folder, f"training of arm {job.arm}") if first else nullcontext():
        result = read_result(job.output_folder)
        if result is None:
            return _train(job, track)
        if first:
            _remove_checkpoints(job.output_folder)  # of a process that was killed once its result was sealed
        replay_curve(job.output_folder, track)
        return result


def read_result(output_folder: Path) -> Run | None:
    """Return the result of a finished run; nothing where there is none.

    Raises:
        ValueError: the result, the curve or the model is damaged.
    """
    if not (output_folder / SEAL).is_file():
        return None
    reason = damage(output_folder, remembered=True)
    if reason is not None:
        raise ValueError(
            f"the training run in {output_folder.resolve()} is damaged ({reason}): remove this folder and run again to "
            "train again"
        )
    return Run.model_validate_json((output_folder / RUN_FILE).read_bytes())


def _train(job: TrainingJob, track: Track | None) -> Run:
    compute = check_job(job)
    student = _student(job)
    arguments = training_arguments(job, compute, student)  # makes this process's device the current one
    _require_agreement(job)
    checkpoint = _resumed(job, arguments)
    curve = Curve.load(checkpoint)
    meter = Meter.of(
        compute, job.schedule.tokens_per_step, sum(_flops_per_token(job, causal=True)), arguments.world_size
    )
    with stop_on_signals() as stop:
        keeper = Keeper(job, curve, stop)
        trainer = _Trainer(
            job=job,
            model=Student(student, objective_of(job, compute)),
            args=arguments,
            train_dataset=_Sequences(job, 0 if checkpoint is None else step_of(checkpoint)),
            data_collator=_collate,
            callbacks=[Recorder(job, curve, meter, track), keeper],
        )
        trainer.remove_callback(PrinterCallback)
        with own_run(trainer, name_of(job)), reusing_memory():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.state.global_step < job.schedule.num_steps:
        raise TrainingStoppedError(
            f"arm {job.arm}: stopped by SIGTERM or Ctrl-C after step {trainer.state.global_step} of "
            f"{job.schedule.num_steps}; {checkpoints_of(job.output_folder)[-1]} is complete, and the same run "
            "continues from it"
        )
    result = _run(job, compute, keeper.seconds(), meter)
    _finish(job, trainer, result)
    if stop.is_set():
        raise TrainingStoppedError(f"arm {job.arm}: finished, then stopped by SIGTERM or Ctrl-C")
    return result


def _require_agreement(job: TrainingJob) -> None:
    """Check that all processes train the same job on the same text: files of one node may be older than another's.

    Raises:
        ValueError: two do not.
    """
    if not distributed.is_initialized():
        return
    corpus = PackedCorpus.open(job.corpus_folder).fingerprint
    own = {"host": socket.gethostname(), "job": job.model_dump_json(), "text": corpus, "budwood": __version__}
    found: list[dict[str, str]] = [own] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    for rank, other in enumerate(found):
        for name in ("budwood", "job", "text"):
            if other[name] != found[0][name]:
                raise ValueError(
                    f"engine.launcher: process {rank} on {other['host']} has another {name} than process 0 on "
                    f"{found[0]['host']}; give every node the same data folder and the same budwood"
                )


def _resumed(job: TrainingJob, arguments: TrainingArguments) -> Path | None:
    """Return the checkpoint to continue from, which the first process chooses for all."""
    chosen: list[Path | None] = [None]
    if arguments.process_index == 0:
        shutil.rmtree(job.output_folder / PARTIAL, ignore_errors=True)  # what a killed process left half-written
        own = whole_checkpoint(job.output_folder)
        chosen = [own or whole_checkpoint(job.branch_folder, job.schedule.decay_start)]
    if arguments.world_size > 1:
        distributed.broadcast_object_list(chosen)
    return chosen[0]


def _finish(job: TrainingJob, trainer: Trainer, result: Run) -> None:
    """Write the model and the result, seal them with the curve, and remove what was only for resuming."""
    model, folder = _whole_model(trainer), job.output_folder
    if trainer.is_world_process_zero():
        write_checkpoint(model, job.teacher_folder, folder / MODEL)
        write_atomically(folder / RUN_FILE, result.model_dump_json())
        seal(folder, MODEL, CURVE_FILE, RUN_FILE)
        _remove_checkpoints(folder)
    if distributed.is_initialized():
        distributed.barrier()


def _remove_checkpoints(folder: Path) -> None:
    for stale in checkpoints_of(folder):
        shutil.rmtree(stale)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # absent in a run without checkpoints


def training_arguments(job: TrainingJob, compute: Compute, student: PreTrainedModel) -> TrainingArguments:
    """Translate a job for the Trainer."""
    schedule = job.schedule
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    ends: dict[str, Any] = {"min_lr_rate": schedule.final_learning_rate_ratio}
    if schedule.shape == "warmup_stable_decay":
        ends = {
            "num_decay_steps": schedule.num_steps - schedule.decay_start,
            "decay_type": "1-sqrt",
            "min_lr_ratio": schedule.final_learning_rate_ratio,
        }
    arguments = TrainingArguments(
        output_dir=str(job.output_folder / PARTIAL),
        max_steps=schedule.num_steps,
        per_device_train_batch_size=schedule.micro_batch,
        gradient_accumulation_steps=schedule.global_batch // (schedule.micro_batch * processes),
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if schedule.shape == "cosine" else "warmup_stable_decay",
        lr_scheduler_kwargs=ends,
        warmup_steps=schedule.num_warmup_steps,
        optim="adamw_torch_fused",
        adam_beta1=schedule.betas[0],
        adam_beta2=schedule.betas[1],
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        bf16=compute.precision == "bfloat16",
        use_cpu=compute.device.type == "cpu",
        ddp_backend="gloo" if compute.device.type == "cpu" and processes > 1 else None,
        # One wait for the device in every optimiser step: a loss that is not finite is named with its step.
        logging_steps=1,
        # The filter hides steps whose loss is not a number, and waits for the device at every micro-batch.
        logging_nan_inf_filter=False,
        save_steps=schedule.checkpoint_steps,
        train_sampling_strategy="sequential",
        # `_Sequences` leaves out those of the steps that are done.
        ignore_data_skip=True,
        remove_unused_columns=False,
        seed=schedule.seed,
        report_to=list(job.engine.report_to) or "none",
        run_name=name_of(job),
        disable_tqdm=True,
        dataloader_pin_memory=compute.device.type == "cuda",
        ddp_find_unused_parameters=False,
        **_sharding(job, student),
    )
    # One process drives one device: with several, the Trainer would wrap the student in nn.DataParallel.
    arguments._n_gpu = min(1, arguments.n_gpu)  # noqa: SLF001
    return arguments


def _sharding(job: TrainingJob, student: PreTrainedModel) -> dict[str, Any]:
    if not job.engine.sharding:
        return {}
    layers: Any = student.base_model.layers
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "reshard_after_forward": False,
            "state_dict_type": "SHARDED_STATE_DICT",
            "transformer_layer_cls_to_wrap": sorted({type(layer).__name__ for layer in layers}),
        },
    }


class _Trainer(Trainer):
    """The Trainer, with the job's optimiser and a check of how it was distributed."""

    def __init__(self, *, job: TrainingJob, **settings: Any) -> None:
        super().__init__(**settings)
        self.job = job
        kind = self.accelerator.distributed_type
        if job.engine.sharding and kind is not DistributedType.FSDP:
            raise RuntimeError(
                f"sharding=true, but accelerate set up {kind}: the launcher must start several processes"
            )

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Make the optimiser that the schedule names."""
        if self.optimizer is None and self.job.schedule.optimizer == "muon":
            schedule, student = self.job.schedule, cast("Student", self.model)
            names = set(self.get_decay_parameter_names(student))
            self.optimizer = muon_with_adamw(
                student.model,
                {parameter for name, parameter in student.named_parameters() if name in names},
                learning_rate=self.job.learning_rate,
                betas=schedule.betas,
                decay=schedule.weight_decay,
            )
        optimizer: Optimizer = super().create_optimizer(model)
        return optimizer


class _Sequences(Dataset[dict[str, Tensor]]):
    """Sequences of the token file by index, without those of the steps that are done."""

    def __init__(self, job: TrainingJob, steps_done: int) -> None:
        schedule = job.schedule
        self.corpus, self.length = PackedCorpus.open(job.corpus_folder), schedule.sequence_length
        # The length stays the whole run's: sequences that were read go to the end, which this run never reaches.
        self.starts = np.roll(reading_order(self.corpus, job), -steps_done * schedule.global_batch)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.corpus.read(self.starts[index], self.length))
        return {"tokens": tokens, "starts": torch.tensor(self.starts[index])}


def _collate(sequences: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch, starts = (torch.stack([sequence[name] for sequence in sequences]) for name in ("tokens", "starts"))
    # `shift_labels` and not `labels`: the Trainer counts them as they are when it normalises over micro-batches.
    return {"input_ids": batch[:, :-1], "shift_labels": batch[:, 1:], "starts": starts}


def _student(job: TrainingJob) -> PreTrainedModel:
    if job.initialisation == "random":
        teacher = load_config(job.teacher_folder)
        base = teacher if job.model_folder is None else load_config(job.model_folder)
        base |= {"rope_parameters": standard_rope(teacher)}
        model = random_model(base, student_architecture(job), job.schedule.seed)
    else:
        assert job.model_folder is not None
        # float32 masters whatever the precision of the products.
        model = load_model(job.model_folder, torch.float32)
    if job.engine.activation_checkpointing:
        model.activation_checkpointing_enable()
    return compile_layers(model) if job.engine.compile else model


def compile_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Compile every decoder layer in place; equal layers share one graph."""
    layers: Any = model.base_model.layers
    # Each distinct layer is a graph of the same code; above the limit, dynamo would leave the rest uncompiled.
    config: Any = torch._dynamo.config  # noqa: SLF001 - torch documents it under this name
    config.recompile_limit = max(config.recompile_limit, 4 * len(layers))
    for layer in layers:
        layer.compile()
    return model


def _whole_model(trainer: Trainer) -> PreTrainedModel:
    """Return the trained model with all its weights, gathered from the processes where they are sharded."""
    student: Any = trainer.model
    if not isinstance(student, FSDPModule):
        return student.model  # type: ignore[no-any-return]
    state = trainer.accelerator.get_state_dict(student)
    model = build_empty(cast("Student", student).config)
    if trainer.is_world_process_zero():
        model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()}, strict=False)
    return model


def _flops_per_token(job: TrainingJob, *, causal: bool = False) -> tuple[int, int]:
    """Return the FLOPs of a training step per token: the student's, and those of a teacher that runs beside it."""
    context = job.schedule.sequence_length
    student = training_flops_per_token(student_architecture(job), context=context, causal=causal)
    teacher = teacher_beside(job)
    return student, forward_flops_per_token(teacher, context=context, causal=causal) if teacher else 0


def _cache_flops(job: TrainingJob) -> int | None:
    """Return the FLOPs of the teacher for all of a job's cache; None where it reads none."""
    if job.distillation is None or job.distillation.teacher != "cached":
        return None
    cache = open_cache(job)
    asked = asked_architecture(job.teacher_folder, job.distillation)
    return cache.record.tokens * forward_flops_per_token(asked, context=cache.facts.sequence_length)


def _run(job: TrainingJob, compute: Compute, seconds: float, meter: Meter) -> Run:
    tokens = job.schedule.num_tokens
    student_flops, beside = _flops_per_token(job)
    asked = _cache_flops(job)
    rates = meter.rates()
    return Run(
        arm=job.arm,
        tokens=tokens,
        steps=job.schedule.num_steps,
        tokens_per_step=job.schedule.tokens_per_step,
        learning_rate=job.learning_rate,
        student_flops=float(tokens * student_flops),
        teacher_flops=float(tokens * beside if asked is None else asked),
        teacher_cached=asked is not None,
        seconds=seconds,
        tokens_per_second=rates.get("tokens_per_second"),
        mfu=rates.get("mfu"),
        device=compute.describe(),
        precision=compute.precision,
    )
