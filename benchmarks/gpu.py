"""What one accelerator does with models of 0.4B and 1B parameters, in eight minutes, without network or installs.

Random Llamas in bfloat16, decoder layers and loss compiled, attention through torch's scaled_dot_product_attention:

* `mfu_0_4b`, `mfu_1b`: FLOPs of training, attention without what the causal mask leaves out, over the device's peak.
* `tokens_per_second_0_4b`; and `litgpt_ratio`, that over litgpt's `pretrain` on the same Llama, where it is installed.
* `search_tokens_per_second`: candidates of 0.4B cut out of the 1B teacher, and measured.
* `live_distillation_ratio`: a step of 0.4B under the 1B teacher over a step alone and the teacher's forward passes;
  `cached_distillation_ratio`: a step from a cache of 64 draws over a step alone.
* `fully_shard_ratio`: a step with weights sharded on one rank over a plain one, without compilation.
* `memory_over_plan`: the peak that torch allocated in training 1B over what the plan expects.

A figure that could not be measured is null, and `reasons` says why. None takes more than half of the time. When that is
over, the line is printed with what there is.

Usage: python benchmarks/gpu.py [--device cuda] [--minutes 8] [--small]

Last line: a JSON object with these figures, `reasons`, and what ran.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import Workbench, steps_of
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.models.checkpoint import load_model, read_architecture
from budwood.models.device import Compute, choose_compute
from budwood.reporting.memory import training_memory
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering
from budwood.training.cache import write_cache
from budwood.training.objectives import Objective
from budwood.training.order import training_order
from budwood.training.peaks import peak_flops
from budwood.training.run import train
from budwood.training.settings import DistillationSettings, Engine, Schedule
from budwood.training.student import Student
from budwood.training.teacher import cache_facts, open_live_teacher

FIGURES = (
    *("mfu_0_4b", "mfu_1b", "tokens_per_second_0_4b", "litgpt_ratio", "search_tokens_per_second"),
    *("live_distillation_ratio", "cached_distillation_ratio", "fully_shard_ratio", "memory_over_plan"),
)
SAMPLED = DistillationSettings(loss="sampled", num_samples=64, teacher="cached")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large models, text and runs are."""

    student: Mapping[str, int]
    teacher: Mapping[str, int]
    length: int
    portions: Mapping[str, tuple[int, int]]
    """Micro-batch and accumulation, by model."""
    steps: int
    warm: int
    """Steps that are not counted: compilers work there."""
    searched: tuple[int, int, int]
    """Candidates, sequences and tokens of each."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured."""

    about: Mapping[str, object]
    figures: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(FIGURES))
    reasons: dict[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """Return the JSON line."""
        return json.dumps({**self.figures, "reasons": self.reasons, **self.about}) + "\n"


_GRACE_SECONDS = 10
"""In which the last figure may hear that its time is over."""
_VOCABULARY = 50_304
FULL = Scale(
    student={
        "vocab_size": _VOCABULARY,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    teacher={
        "vocab_size": _VOCABULARY,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    length=2048,
    portions={"student": (16, 2), "teacher": (8, 2)},
    steps=24,
    warm=4,
    searched=(8, 64, 512),
)
_TINY = {"vocab_size": 512, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
SMALL = Scale(
    student=_TINY | {"hidden_size": 16, "num_hidden_layers": 1},
    teacher=_TINY | {"hidden_size": 32, "num_hidden_layers": 2},
    length=16,
    portions={"student": (2, 2), "teacher": (2, 2)},
    steps=4,
    warm=1,
    searched=(2, 2, 16),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder with models and text, and the device."""

    folder: Path
    scale: Scale
    compute: Compute
    compiled: bool
    times: dict[str, list[float]] = field(default_factory=dict)
    """When the steps of a run ended, by its name."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Bytes that torch had allocated at most in a run, by its name."""

    @cached_property
    def workbench(self) -> Workbench:
        """Models of random weights, and text of random letters that is enough for a step."""
        scale, compute = self.scale, self.compute
        lengths = {"max_position_embeddings": scale.length, "tie_word_embeddings": False}
        sizes = {"student": {**scale.student, **lengths}, "teacher": {**scale.teacher, **lengths}}
        letters = scale.length * max(2, *(a * b // 30 for a, b in scale.portions.values()))
        engine = Engine(compile=self.compiled, compile_loss="auto" if self.compiled else "off")
        how = {"device": compute.name, "precision": compute.precision, "engine": engine}
        return Workbench(self.folder, sizes, (80, letters), how)

    def schedule(self, model: str) -> Schedule:
        """Return the portions of a run."""
        return steps_of(self.scale.length, *self.scale.portions[model], self.scale.steps)

    def seconds_per_step(self, name: str, model: str, **changes: Any) -> float:
        """Train for some steps, once, and return the mean time of those after the warm-up."""
        if name not in self.times:
            self.times[name] = self._run(name, model, **changes)
        times = self.times[name][self.scale.warm :]
        return (times[-1] - times[0]) / (len(times) - 1)

    def _run(self, name: str, model: str, **changes: Any) -> list[float]:
        times: list[float] = []

        def note(metrics: Mapping[str, float], _: int) -> None:
            if "train_loss" in metrics:  # read from the device, so the step has ended
                times.append(time.perf_counter())

        job = self.workbench.job(name, model, self.schedule(model), **changes)
        if self.compute.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train(job, note)
        if self.compute.device.type == "cuda":
            self.peaks[name] = torch.cuda.max_memory_allocated()
        shutil.rmtree(job.output_folder)
        sys.stderr.write(f"{name}: {(times[-1] - times[self.scale.warm]) / (len(times) - self.scale.warm - 1):.3f} s\n")
        return times

    def tokens_per_second(self, model: str) -> float:
        """Return the training speed of a model."""
        return self.schedule(model).tokens_per_step / self.seconds_per_step(model, model)

    def mfu(self, model: str) -> float:
        """Return the share of the device's peak that training reaches."""
        peak = peak_flops(self.compute.describe()) if self.compute.precision == "bfloat16" else None
        speed = self.tokens_per_second(model)
        if peak is None:
            raise ValueError(f"the peak of {self.compute.describe()} in {self.compute.precision} is not known")
        per_token = 3 * forward_flops_per_token(
            read_architecture(self.workbench.models[model]), context=self.scale.length, causal=True
        )
        return float(speed * per_token / peak)


def litgpt_ratio(bench: Bench) -> float:
    """Return our training speed over litgpt's on the same Llama."""
    if find_spec("litgpt") is None:
        raise ValueError("litgpt is not installed")
    micro, accumulation = bench.scale.portions["student"]
    plan = dict(bench.scale.student) | {"length": bench.scale.length, "micro_batch": micro}
    plan |= {"accumulation": accumulation, "steps": bench.scale.steps, "warm": bench.scale.warm, "tied": False}
    plan["precision"] = "bf16-mixed" if bench.compute.precision == "bfloat16" else "32-true"
    script = [sys.executable, str(Path(__file__).with_name("litgpt_train.py")), json.dumps(plan)]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own script
    return bench.tokens_per_second("student") / float(json.loads(said.splitlines()[-1])["tokens_per_second"])


def search_tokens_per_second(bench: Bench) -> float:
    """Return how fast candidates of the student's size are cut out of the teacher and read."""
    number, sequences, length = bench.scale.searched
    teacher = open_ordered(bench.workbench.models["teacher"], Ordering(ordering="native")).materialise(bench.compute)
    size = num_parameters(read_architecture(bench.workbench.models["student"]))
    space, rng = SearchSpace(teacher=teacher.ranked, layerwise=True), np.random.default_rng(0)
    candidates = [sample(space, ParameterBin.around(size, 0.2), rng) for _ in range(number + 1)]
    ids = torch.randint(0, 256, (sequences, length + 1), generator=torch.Generator().manual_seed(0))
    evaluate = SubnetEvaluator(teacher=teacher, windows=ids, batch_size=16)
    evaluate.one(candidates[0])
    begun = time.perf_counter()
    made = [evaluation for _, evaluation in evaluate(candidates[1:], slice(0, sequences))]
    return sum(each.tokens for each in made) / (time.perf_counter() - begun)


@torch.no_grad()
def live_distillation_ratio(bench: Bench) -> float:
    """Return a step under the teacher over a step alone and the teacher's forward passes."""
    micro, accumulation = bench.scale.portions["student"]
    teacher = bench.compute.place(load_model(bench.workbench.models["teacher"], bench.compute.dtype)).eval()
    ids = torch.randint(0, 256, (micro, bench.scale.length), device=bench.compute.device)
    forward = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(accumulation):
            float(teacher(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum())
        forward = min(forward, time.perf_counter() - begun)
    del teacher
    alone = bench.seconds_per_step("student", "student")
    with torch.enable_grad():
        taught = bench.seconds_per_step("taught", "student", distillation=DistillationSettings())
    return taught / (alone + forward)


def cached_distillation_ratio(bench: Bench) -> float:
    """Return a step from a cache over a step alone."""
    schedule, folder = bench.schedule("student"), bench.folder / "cache"
    teacher = open_live_teacher(bench.workbench.models["teacher"], SAMPLED, bench.compute)
    facts = cache_facts(bench.workbench.models["teacher"], bench.workbench.corpus, schedule.sequence_length, SAMPLED)
    order = training_order(bench.workbench.corpus, schedule)
    write_cache(folder, teacher.entries, bench.workbench.corpus, order, facts, schedule.micro_batch)
    del teacher
    cached = bench.seconds_per_step("cached", "student", distillation=SAMPLED, cache_folder=folder)
    return cached / bench.seconds_per_step("student", "student")


def fully_shard_ratio(bench: Bench) -> float:
    """Return a step with sharded weights over a plain one, on one rank."""
    store = distributed.HashStore()
    backend = "nccl" if bench.compute.device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        plain, sharded = (_bare_step(bench, shard=shard) for shard in (False, True))
    finally:
        distributed.destroy_process_group()
    return sharded / plain


def _bare_step(bench: Bench, *, shard: bool) -> float:
    student = Student(bench.compute.place(load_model(bench.workbench.models["student"], torch.float32)), Objective())
    if shard:
        layers: Any = student.model.base_model.layers
        for layer in layers:
            fully_shard(layer)
        fully_shard(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    micro, _ = bench.scale.portions["student"]
    windows = torch.randint(0, 256, (micro, bench.scale.length + 1), device=bench.compute.device)
    times = []
    for _ in range(bench.scale.steps):
        with torch.autocast(bench.compute.device.type, torch.bfloat16, bench.compute.precision == "bfloat16"):
            loss = student(windows[:, :-1], windows[:, 1:])["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        times.append(time.perf_counter())
    counted = times[bench.scale.warm :]
    return (counted[-1] - counted[0]) / (len(counted) - 1)


def memory_over_plan(bench: Bench) -> float:
    """Return the peak of training the larger model over what the plan expects."""
    if bench.compute.device.type != "cuda":
        raise ValueError(f"torch does not count what is allocated on a {bench.compute.device.type}")
    bench.seconds_per_step("teacher", "teacher")
    schedule, architecture = bench.schedule("teacher"), read_architecture(bench.workbench.models["teacher"])
    tokens = schedule.micro_batch * schedule.sequence_length
    planned = training_memory(architecture, num_tokens=tokens, precision=bench.compute.precision)
    return bench.peaks["teacher"] / planned.total


MEASURES: dict[str, Callable[[Bench], float]] = {
    "tokens_per_second_0_4b": lambda bench: bench.tokens_per_second("student"),
    "mfu_0_4b": lambda bench: bench.mfu("student"),
    "mfu_1b": lambda bench: bench.mfu("teacher"),
    "search_tokens_per_second": search_tokens_per_second,
    "live_distillation_ratio": live_distillation_ratio,
    "cached_distillation_ratio": cached_distillation_ratio,
    "memory_over_plan": memory_over_plan,
    "fully_shard_ratio": fully_shard_ratio,
    "litgpt_ratio": litgpt_ratio,
}
"""In the order in which they are measured."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise in this thread once the time is over, and again every second while something swallows that.

    Raises:
        TimeoutError: it is over.
    """

    def end(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.3g} s, its limit")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(bench: Bench, minutes: float, found: Found) -> None:
    """Measure all figures; what could not be measured gets a reason.

    No figure is begun after three quarters of the time, and none takes more than half of it or what is left.
    """
    begun = time.monotonic()
    for name, figure in MEASURES.items():
        left = begun + 60 * minutes - time.monotonic()
        if left < 60 * minutes / 4:
            found.reasons[name] = "no time was left"
            continue
        try:
            with limited(min(left, 30 * minutes)):
                found.figures[name] = figure(bench)
        except Exception as error:  # noqa: BLE001 - one figure must not take the others with it; the reason is printed
            found.reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        sys.stderr.write(f"{name}: {found.figures[name]} {found.reasons.get(name, '')}\n")


def give_up(found: Found) -> None:
    """Print what there is and leave at once: code that hears no signal has taken all of the time."""
    for name in set(FIGURES) - found.reasons.keys():
        if found.figures[name] is None:
            found.reasons[name] = "no time was left"
    sys.stdout.write(found.line())
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="of all figures together, at most")
    parser.add_argument("--small", action="store_true", help="tiny models, nothing compiled: shows that all of it runs")
    options = parser.parse_args()
    compute = choose_compute(options.device, "float32" if options.device == "cpu" else "auto")
    scale, compiled = SMALL if options.small else FULL, not options.small
    about = {"device": compute.describe(), "precision": compute.precision, "torch": torch.__version__}
    found = Found(about={**about, "compiled": compiled})
    last = threading.Timer(60 * options.minutes + _GRACE_SECONDS, give_up, [found])
    last.daemon = True
    last.start()
    with tempfile.TemporaryDirectory() as folder:
        measure(Bench(folder=Path(folder), scale=scale, compute=compute, compiled=compiled), options.minutes, found)
    last.cancel()
    sys.stdout.write(found.line())


if __name__ == "__main__":
    main()
