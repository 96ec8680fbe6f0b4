"""What training costs beyond the model: against litgpt 0.5.12, against a bare loop, under a teacher, after a resume.

Everything is processor time of one thread in float32, in rounds that measure each side once (A/B), medians over rounds:

* `tokens_per_second_ratio`: ours over litgpt's `pretrain` (`litgpt_train.py`, an environment of its own, same torch) on
  the same Llama, tied, on as many tokens in the same portions. Neither compiles unless `--compile` lets both.
* `loop_overhead_ms`: what `train` takes for a micro-step beyond a plain torch loop over the same student.
* `live_distillation_ratio`: a distillation step over a step without a teacher and the teacher's forward pass to logits.
* `cached_distillation_ratio`: a step from a teacher's cache over a step without a teacher; the dearer of 64 draws and
  of the top 1,024 with the rest.
* `resume_skip_seconds`: how much longer a run takes to its first step after 440,000 micro-batches than from the start.

Usage: python benchmarks/train.py [--num-repeats 3] [--compile] [--only litgpt loop live cached resume]

Last line: a JSON object with these figures.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jobs import Workbench, steps_of
from peers import CACHE_DIR, LITGPT_INSTALLS, make_environment, run_script
from torch.optim.lr_scheduler import LambdaLR

from budwood.models.checkpoint import load_model
from budwood.models.device import choose_compute
from budwood.records.seal import seal
from budwood.training.cache import write_cache
from budwood.training.job import TrainingJob
from budwood.training.objectives import Objective
from budwood.training.order import training_order
from budwood.training.run import train
from budwood.training.settings import DistillationSettings, Engine, Schedule
from budwood.training.student import Student
from budwood.training.teacher import cache_facts, open_live_teacher

SIZES = {  # 16.9M parameters
    "vocab_size": 16_384,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 1024,
}
TEACHER_SIZES = SIZES | {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 8}
TINY_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LENGTH, MICRO_BATCH, ACCUMULATION, STEPS = 256, 2, 2, 4
MODELS = {
    name: sizes | {"max_position_embeddings": LENGTH}
    for name, sizes in (("student", SIZES), ("teacher", TEACHER_SIZES), ("tiny", TINY_SIZES))
}
LOOP_ACCUMULATION, LOOP_STEPS = 8, 40
SKIPPED = 440_000


def step_times(job: TrainingJob) -> list[float]:
    """Run a job of at most a hundred steps and return the processor time after every step."""
    times: list[float] = []

    def note(metrics: Mapping[str, float], _: int) -> None:
        if "train_loss" in metrics:
            times.append(time.process_time())

    train(job, note)
    return times


def seconds_per_step(job: TrainingJob) -> float:
    """Return the mean processor time of all steps but the first."""
    times = step_times(job)
    return (times[-1] - times[0]) / (len(times) - 1)


def tokens_per_second_ratio(workbench: Workbench, num_repeats: int, cache_dir: Path, *, compiled: bool) -> float:
    """Return our tokens per processor second over litgpt's."""
    python = make_environment("litgpt", LITGPT_INSTALLS, cache_dir)
    if not compiled:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    theirs_plan = SIZES | {"length": LENGTH, "micro_batch": MICRO_BATCH, "accumulation": ACCUMULATION, "steps": STEPS}
    ours, theirs = [], []
    for _ in range(num_repeats):
        job = workbench.job(
            "litgpt",
            "student",
            steps_of(LENGTH, MICRO_BATCH, ACCUMULATION, STEPS),
            engine=Engine(compile=compiled, compile_loss="auto" if compiled else "off"),
        )
        ours.append(job.schedule.tokens_per_step / seconds_per_step(job))
        peer = run_script(python, Path(__file__).with_name("litgpt_train.py"), [json.dumps(theirs_plan)])
        theirs.append(peer["tokens_per_cpu_second"])
        sys.stderr.write(f"ours {ours[-1]:.0f}, litgpt {theirs[-1]:.0f} tokens per CPU second {peer['versions']}\n")
    return statistics.median(ours) / statistics.median(theirs)


def bare_seconds_per_step(workbench: Workbench, schedule: Schedule) -> float:
    """Return the processor time of a step of a plain torch loop with the same student, portions and optimiser."""
    student = Student(load_model(workbench.models["tiny"], torch.float32), Objective())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    starts = workbench.corpus.window_starts("train", schedule.sequence_length, limit=schedule.micro_batch)
    items, times = torch.tensor(schedule.tokens_per_step), []
    for _ in range(schedule.num_steps):
        for _ in range(schedule.global_batch // schedule.micro_batch):
            batch = torch.from_numpy(workbench.corpus.read(starts, schedule.sequence_length))
            student(batch[:, :-1], batch[:, 1:], items)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        times.append(time.process_time())
    return (times[-1] - times[0]) / (len(times) - 1)


def loop_overhead_ms(workbench: Workbench, num_repeats: int) -> float:
    """Return what a micro-step of `train` takes beyond that of the bare loop."""
    differences = []
    for _ in range(num_repeats):
        job = workbench.job("loop", "tiny", steps_of(16, 2, LOOP_ACCUMULATION, LOOP_STEPS))
        ours, bare = seconds_per_step(job), bare_seconds_per_step(workbench, job.schedule)
        sys.stderr.write(f"{LOOP_ACCUMULATION} micro-steps: ours {1e3 * ours:.2f} ms, bare {1e3 * bare:.2f} ms\n")
        differences.append(1000 * (ours - bare) / LOOP_ACCUMULATION)
    return statistics.median(differences)


def live_distillation_ratio(workbench: Workbench, num_repeats: int) -> float:
    """Return a distillation step over a step without a teacher plus the teacher's forward passes."""
    teacher = load_model(workbench.models["teacher"], torch.float32).eval()
    ids = torch.randint(0, 257, (MICRO_BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    schedule, ratios = steps_of(LENGTH, MICRO_BATCH, ACCUMULATION, STEPS), []
    for _ in range(num_repeats):
        alone = seconds_per_step(workbench.job("alone", "student", schedule, engine=Engine()))
        taught = seconds_per_step(
            workbench.job("taught", "student", schedule, engine=Engine(), distillation=DistillationSettings())
        )
        with torch.no_grad():
            begun = time.process_time()
            for _ in range(ACCUMULATION):
                teacher(input_ids=ids, use_cache=False)
            forward = time.process_time() - begun
        sys.stderr.write(f"step {alone:.2f} s, teacher {forward:.2f} s, distillation {taught:.2f} s\n")
        ratios.append(taught / (alone + forward))
    return statistics.median(ratios)


def cached_distillation_ratio(workbench: Workbench, num_repeats: int) -> float:
    """Return a step of distillation from a cache over a step without a teacher."""
    schedule = steps_of(LENGTH, MICRO_BATCH, ACCUMULATION, STEPS)
    kinds = [
        DistillationSettings(loss="sampled", teacher="cached"),
        DistillationSettings(loss="topk_tail", teacher="cached"),
    ]
    caches = [(settings, write(workbench, settings, schedule)) for settings in kinds]
    ratios: list[list[float]] = [[] for _ in kinds]
    for _ in range(num_repeats):
        alone = seconds_per_step(workbench.job("alone", "student", schedule, engine=Engine()))
        for (settings, folder), found in zip(caches, ratios, strict=True):
            fields = {"engine": Engine(), "distillation": settings, "cache_folder": folder}
            job = workbench.job("cached", "student", schedule, **fields)
            taught = seconds_per_step(job)
            sys.stderr.write(f"step {alone:.2f} s, from the cache of {settings.loss} {taught:.2f} s\n")
            found.append(taught / alone)
    return max(map(statistics.median, ratios))


def write(workbench: Workbench, settings: DistillationSettings, schedule: Schedule) -> Path:
    """Write down what the teacher says of the sequences of a schedule."""
    corpus = workbench.corpus
    teacher = open_live_teacher(workbench.models["teacher"], settings, choose_compute("cpu", "float32"))
    facts = cache_facts(workbench.models["teacher"], corpus, LENGTH, settings)
    starts = training_order(corpus, schedule)
    return write_cache(workbench.folder / settings.loss, teacher.entries, corpus, starts, facts, MICRO_BATCH).folder


def resume_skip_seconds(workbench: Workbench, num_repeats: int) -> float:
    """Return what a run after 440,000 micro-batches takes to its first step beyond what one from the start takes."""
    schedule, differences = steps_of(16, 8, 1, SKIPPED + 1), []
    for _ in range(num_repeats):
        fresh = workbench.job("fresh", "tiny", schedule.model_copy(update={"checkpoint_steps": 1}))
        first = _seconds_to_first_step(fresh)
        resumed = workbench.job("resumed", "tiny", schedule)
        checkpoint = resumed.output_folder / f"checkpoint-{SKIPPED}"
        shutil.copytree(fresh.output_folder / "checkpoint-1", checkpoint)
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"global_step": SKIPPED}))
        seal(checkpoint)
        seconds = _seconds_to_first_step(resumed)
        sys.stderr.write(f"to the first step: from the start {first:.2f} s, resumed {seconds:.2f} s\n")
        differences.append(seconds - first)
    return statistics.median(differences)


class _FirstStepError(Exception):
    """Ends a run."""


def _seconds_to_first_step(job: TrainingJob) -> float:
    """Return the processor time to a run's first step, and end the run before its second, when the first is saved."""
    begun = time.process_time()
    forward, calls = Student.forward, []

    def counted(*arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        calls.append(time.process_time())
        if len(calls) > 1:
            raise _FirstStepError
        return forward(*arguments, **named)

    Student.forward = counted  # type: ignore[method-assign]
    try:
        train(job)
    except _FirstStepError:
        pass
    finally:
        Student.forward = forward  # type: ignore[method-assign]
    return calls[0] - begun


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-repeats", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    parser.add_argument("--compile", action="store_true")
    parts = ["litgpt", "loop", "live", "cached", "resume"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        how = {"device": "cpu", "precision": "float32", "engine": Engine(compile_loss="off")}
        workbench, repeats = Workbench(Path(folder), MODELS, (40, 4000), how), arguments.num_repeats
        if "resume" in arguments.only:
            figures["resume_skip_seconds"] = resume_skip_seconds(workbench, repeats)
        if "loop" in arguments.only:
            figures["loop_overhead_ms"] = loop_overhead_ms(workbench, repeats)
        if "live" in arguments.only:
            figures["live_distillation_ratio"] = live_distillation_ratio(workbench, repeats)
        if "cached" in arguments.only:
            figures["cached_distillation_ratio"] = cached_distillation_ratio(workbench, repeats)
        if "litgpt" in arguments.only:
            figures["tokens_per_second_ratio"] = tokens_per_second_ratio(
                workbench, repeats, arguments.cache_dir, compiled=arguments.compile
            )
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
