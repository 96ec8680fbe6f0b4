"""What happens between the steps of a run: losses are recorded, checkpoints kept, and signals to stop obeyed."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from budwood.corpus.packing import PackedCorpus
from budwood.records.files import append_json_lines
from budwood.records.tracking import Track
from budwood.training.checkpoints import PARTIAL, checkpoints_of, keep_branch, place_checkpoint
from budwood.training.curve import (
    CURVE_FILE,
    CURVE_ROWS,
    Curve,
    CurveRow,
    divergence_limit,
    replay_curve,
    track_row,
    write_curve,
)
from budwood.training.job import TrainingJob
from budwood.training.optimizer import state_dtypes
from budwood.training.progress import Meter, training_bar
from budwood.training.student import Student


class Recorder(TrainerCallback):
    """Writes and reports the losses of a run, shows its progress, and stops it where it diverges."""

    def __init__(self, job: TrainingJob, curve: Curve, meter: Meter, track: Track | None) -> None:
        """Watch a run."""
        self.job, self.curve, self.meter, self.track = job, curve, meter, track
        corpus, length = PackedCorpus.open(job.corpus_folder), job.schedule.sequence_length
        self.heldout = torch.from_numpy(corpus.read(corpus.heldout_starts(length, job.heldout_windows), length))
        self.num_steps = job.schedule.num_steps
        self.evaluation_steps = set(job.schedule.evaluation_steps)
        self.row_steps = max(1, self.num_steps // CURVE_ROWS)
        self.bar = training_bar(job.arm, 0, self.num_steps, hidden=True)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin where the checkpoint ended."""
        student: Any = kwargs["model"]
        if isinstance(student, FSDPModule):
            register_fsdp_forward_method(kwargs["model"], "heldout_losses")
        self.bar = training_bar(self.job.arm, state.global_step, self.num_steps, hidden=not state.is_world_process_zero)
        if state.is_world_process_zero:
            # Rows that an interrupted run wrote after its checkpoint go: those steps are trained again.
            write_curve(self.job.output_folder, self.curve.rows)
            replay_curve(self.job.output_folder, self.track)
        if not self.curve.rows:
            self._evaluate(student, state)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Close the bar, and write the curve whole, whatever happened to its file."""
        self.bar.close()
        if state.is_world_process_zero:
            write_curve(self.job.output_folder, self.curve.rows)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.meter.begin()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the loss of a step, and the held-out loss where one is due."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        self.meter.end()
        # Every checkpoint would carry the whole history.
        state.log_history.clear()
        self._refuse_divergence(kwargs["model"], state, control, logs)
        self.curve.pending.append(float(logs["loss"]))
        if state.global_step % self.row_steps == 0 or state.global_step == self.num_steps:
            loss = math.fsum(self.curve.pending) / len(self.curve.pending)
            self.curve.pending.clear()
            rates = self.meter.row()
            row = CurveRow(step=state.global_step, train_loss=loss, learning_rate=float(logs["learning_rate"]))
            self._add(state, row, {"grad_norm": float(logs["grad_norm"])} | rates)
        self.bar.set_postfix(_readable(float(logs["loss"]), self.meter.rates()), refresh=False)
        self.bar.update()
        if state.global_step in self.evaluation_steps:
            self._evaluate(kwargs["model"], state)

    def _refuse_divergence(
        self, student: Student, state: TrainerState, control: TrainerControl, logs: dict[str, float]
    ) -> None:
        """Stop before a step is saved whose loss is not finite or far above guessing."""
        weights = self.job.distillation.weights if self.job.distillation else None
        scale = 1.0 if weights is None else weights.alpha + weights.beta * weights.temperature**2
        if self.curve.first_loss is None:
            self.curve.first_loss = float(logs["loss"])
        untrained = self.curve.rows[0]["heldout_loss"]
        limit = divergence_limit(student.config.vocab_size, untrained, scale, self.curve.first_loss)
        sound = math.isfinite(logs["grad_norm"]) and math.isfinite(logs["loss"]) and logs["loss"] <= limit
        if sound and control.should_save:
            sound = all(bool(torch.isfinite(parameter).all()) for parameter in student.parameters())
        if not sound:
            saved = checkpoints_of(self.job.output_folder)
            good = saved[-1] if saved else "the start, none was saved"
            raise FloatingPointError(
                f"arm {self.job.arm}: the training loss is {logs['loss']:.6g} and the gradient's norm "
                f"{logs['grad_norm']:.6g} at step {state.global_step}: the run diverges. The last good checkpoint is "
                f"{good}; lower learning_rate ({self.job.learning_rate}) or "
                f"max_grad_norm ({self.job.schedule.max_grad_norm})"
            )

    def _evaluate(self, student: Any, state: TrainerState) -> None:
        # Every process measures all: with sharded weights all must take part.
        losses = student.heldout_losses(self.heldout)
        row = CurveRow(step=state.global_step, heldout_loss=float(losses.mean()), heldout_losses=losses.tolist())
        self._add(state, row, {})

    def _add(self, state: TrainerState, row: CurveRow, rates: dict[str, float]) -> None:
        self.curve.rows.append(row)
        if state.is_world_process_zero:
            append_json_lines(self.job.output_folder / CURVE_FILE, [row])
            track_row(self.track, {**row, **rates})


def _readable(loss: float, rates: dict[str, float]) -> dict[str, str]:
    shown = {"loss": f"{loss:.3f}", "tok/s": f"{rates['tokens_per_second']:,.0f}"}
    return shown | ({"MFU": f"{rates['mfu']:.1%}"} if "mfu" in rates else {})


class Keeper(TrainerCallback):
    """Puts checkpoints into place, and takes one before a run stops at a signal."""

    def __init__(self, job: TrainingJob, curve: Curve, stop: threading.Event) -> None:
        """Keep the checkpoints of a run."""
        self.job, self.curve, self.stop = job, curve, stop
        self.started, self.spent = time.perf_counter(), curve.seconds
        self.branch_step = job.schedule.decay_start if job.branch_folder else None
        self.checked = False

    def seconds(self) -> float:
        """Return the wall-clock time of the run until now, in all processes that had a part in it."""
        return self.spent + time.perf_counter() - self.started

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin where the checkpoint ended."""
        # A checkpoint contains the interval of the run that wrote it.
        state.save_steps = int(args.save_steps)
        self.started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint before the decay and before stopping."""
        if not self.checked:
            _assert_float32(kwargs["model"], kwargs["optimizer"].optimizer)
            self.checked = True
        stop = self._agree_to_stop(args)
        control.should_training_stop |= stop
        control.should_save |= stop or state.global_step == self.branch_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Put a checkpoint into place."""
        if args.world_size > 1:
            distributed.barrier()
        if state.is_world_process_zero:
            self.curve.seconds = self.seconds()
            self.curve.save(self.job.output_folder / PARTIAL / f"checkpoint-{state.global_step}")
            placed = place_checkpoint(self.job.output_folder, state.global_step, self.job.engine.kept_checkpoints)
            if self.job.branch_folder is not None and state.global_step == self.branch_step:
                keep_branch(placed, self.job.branch_folder)

    def _agree_to_stop(self, args: TrainingArguments) -> bool:
        """Return whether any process was asked to stop: all must stop after the same step."""
        if args.world_size == 1:
            return self.stop.is_set()
        asked = torch.tensor(int(self.stop.is_set()), device=args.device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked.item())


def _assert_float32(student: Student, optimizer: Optimizer) -> None:
    """Check that no library has lowered the precision of the weights and averages that updates are added to."""
    weights = {parameter.dtype for parameter in student.parameters()}
    assert weights == {torch.float32}, f"weights must be float32, found {weights}"
    averages = state_dtypes(optimizer)
    assert averages == {torch.float32}, f"the optimiser's state must be float32, found {averages}"


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and Ctrl-C into an event; only in the main thread, others may not change a process's handlers."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
