"""What a model costs to run on the device at hand: latency, throughput and memory."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token, kv_cache_bytes_per_token, num_parameters, pass_flops
from budwood.arch.spec import Architecture
from budwood.evaluation.settings import EfficiencySettings
from budwood.models.device import Compute
from budwood.models.losses import evaluating
from budwood.records.evaluation import Efficiency, ModelSpeed


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure, where it is to run."""

    model: PreTrainedModel
    architecture: Architecture


@torch.no_grad()
def measure_efficiency(subjects: Mapping[str, Subject], settings: EfficiencySettings, compute: Compute) -> Efficiency:
    """Return the times of all repeats, and the memory, of some models on one device.

    The models take turns, so that what else the machine does meets all of them alike and times of the same repeat can
    be compared in pairs. A prompt is read in one pass (prefill), then tokens are generated greedily with the cache.
    """
    started = time.perf_counter()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for _ in tqdm(range(settings.num_rounds - 1), desc="Latency", unit="round", dynamic_ncols=True):
        for name, subject in subjects.items():
            times[name].append(_time(subject, settings, compute.device))
    models = {
        name: ModelSpeed(
            num_parameters=num_parameters(subject.architecture),
            prefill_seconds=[prefill for prefill, _ in times[name][settings.warmups :]],
            decode_seconds=[decode for _, decode in times[name][settings.warmups :]],
            weight_bytes=sum(weight.nbytes for weight in subject.model.parameters()),
            working_bytes=_working_bytes(partial(_time, subject, settings, compute.device), compute),
            kv_bytes_per_token=kv_cache_bytes_per_token(subject.architecture, bytes_per_value=compute.dtype.itemsize),
        )
        for name, subject in subjects.items()
    }
    flops = sum(timing_flops(subject.architecture, settings) for subject in subjects.values())
    return Efficiency(
        prompt_tokens=settings.prompt_tokens,
        new_tokens=settings.new_tokens,
        batch_size=settings.batch_size,
        device=compute.describe(),
        precision=compute.precision,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        models=models,
        tokens=len(subjects) * settings.num_tokens,
        flops=float(flops),
        seconds=time.perf_counter() - started,
    )


def _time(subject: Subject, settings: EfficiencySettings, device: torch.device) -> tuple[float, float]:
    """Return the seconds of one prefill, and of one decoding step on average."""
    model = subject.model
    count = settings.batch_size * settings.prompt_tokens
    # What the tokens are does not matter, only that they are no padding.
    prompt = torch.arange(1, count + 1, device=device).view(settings.batch_size, -1) % subject.architecture.vocab_size
    with evaluating(model):
        begin = _now(device)
        output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        middle = _now(device)
        for _ in range(settings.new_tokens):
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            output = model(input_ids=token, cache=output.cache, use_cache=True)
        end = _now(device)
    return middle - begin, (end - middle) / settings.new_tokens


def _now(device: torch.device) -> float:
    """Return the time at which the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _working_bytes(run: Callable[[], object], compute: Compute) -> int | None:
    """Return the most memory that torch's allocator held during a run, above what it held before."""
    if compute.device.type == "cuda":
        before = torch.cuda.memory_allocated(compute.device)
        torch.cuda.reset_peak_memory_stats(compute.device)
        run()
        torch.cuda.synchronize(compute.device)
        return torch.cuda.max_memory_allocated(compute.device) - before
    if compute.device.type != "cpu":
        return None
    # The CPU's allocator keeps no peak, but reports to the profiler everything it hands out and takes back.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        record.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return max(int(event["args"]["Total Allocated"]) for event in events if event["name"] == "[memory]")


def timing_flops(architecture: Architecture, settings: EfficiencySettings) -> int:
    """Return the FLOPs of timing a model: in every round one prefill, and the decoding behind it.

    Of a prompt the head reads the last position only.
    """
    prompt = settings.prompt_tokens
    decode = (forward_flops_per_token(architecture, context=prompt + step + 1) for step in range(settings.new_tokens))
    once = settings.batch_size * (pass_flops(architecture, prompt, context=prompt, num_logits=1) + sum(decode))
    return settings.num_rounds * once
