"""A run with weights shared out among processes, on a CPU; started by test_launch.py once for each of them."""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from accelerate import DistributedType, state
from torch import distributed
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from budwood.corpus.packing import PackedCorpus
from budwood.models.device import Compute
from budwood.training import run
from budwood.training.curve import read_curve
from budwood.training.job import TrainingJob
from budwood.training.objectives import Objective
from budwood.training.settings import Engine
from budwood.training.student import Student


def facts_of(student: Student) -> dict:
    parameter = student.model.get_input_embeddings().weight
    return {
        "kind": type(parameter).__name__,
        "local": list(parameter.to_local().shape),
        "whole": list(parameter.shape),
    }


def by_torch(job: TrainingJob) -> dict:
    """Train without any Trainer: `fully_shard`, AdamW and a cosine."""
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    student = Student(run._student(job), Objective())
    for layer in student.model.base_model.layers:
        fully_shard(layer)
    fully_shard(student)
    register_fsdp_forward_method(student, "heldout_losses")
    facts = facts_of(student)
    schedule = job.schedule
    decayed = [p for name, p in student.named_parameters() if "norm" not in name]
    others = [p for name, p in student.named_parameters() if "norm" in name]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=job.learning_rate, betas=schedule.betas)
    rates = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, 0, schedule.num_steps, min_lr_rate=schedule.final_learning_rate_ratio
    )
    corpus, sequences = PackedCorpus.open(job.corpus_folder), run._Sequences(job, 0)
    windows = torch.from_numpy(corpus.windows("validation", schedule.sequence_length, limit=job.heldout_windows))
    losses, heldout = [], [float(student.heldout_losses(windows).mean())]
    for step in range(schedule.num_steps):
        first = step * schedule.global_batch
        mine = range(first + rank, first + schedule.global_batch, world)
        # FSDP averages gradients over the processes, so each takes the mean over its own share.
        loss = student(**run._collate([sequences[i] for i in mine]))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), schedule.max_grad_norm)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        mean = loss.detach() / world
        distributed.all_reduce(mean)
        losses.append(float(mean))
        if step + 1 in {3, 6}:
            heldout.append(float(student.heldout_losses(windows).mean()))
    return facts | {"losses": losses, "heldout": heldout}


def by_accelerate(job: TrainingJob) -> dict:
    """Run the job itself, told that sharding is fine on this device."""
    facts: dict = {}
    job = job.model_copy(update={"engine": Engine(sharding=True, launcher="torchrun", compile_loss="off")})
    shards = {DistributedType.MULTI_CPU: DistributedType.FSDP}
    made = state.AcceleratorState.__init__

    def lifted(self: state.AcceleratorState, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)
        self.distributed_type = shards.get(self.distributed_type, self.distributed_type)
        if kwargs.get("fsdp_plugin") is not None:
            self.fsdp_plugin = kwargs["fsdp_plugin"]

    finish = run._finish

    def noted(job: TrainingJob, trainer: run._Trainer, result: dict) -> dict:
        facts.update(facts_of(trainer.model))
        return finish(job, trainer, result)

    with (
        mock.patch.object(state.AcceleratorState, "__init__", lifted),
        mock.patch.object(run, "_finish", noted),
        mock.patch.object(run, "check_job", return_value=Compute(torch.device("cpu"), "float32")),
    ):
        run.train(job)
    rows = read_curve(job.output_folder)
    losses = {name: [row[name] for row in rows if name in row] for name in ("train_loss", "heldout_loss")}
    return facts | {"losses": losses["train_loss"], "heldout": losses["heldout_loss"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())
    told = {"torch": by_torch, "accelerate": by_accelerate}[sys.argv[2]](given)
    if distributed.get_rank() == 0:
        Path(sys.argv[3]).write_text(json.dumps(told))
    distributed.barrier()
    distributed.destroy_process_group()
