"""How much memory it takes to cut a sub-network out of a teacher on disk, ordered and exported.

A random teacher is written in shards, in bfloat16. A process of its own orders it by the magnitude of its weights, cuts
half of it and writes the child, and reports its peak resident memory above what it took when it had done the same with
a tiny teacher, which imports all there is to import; pages of memory-mapped files count. Plain cuts are of a Llama, in
memory: the bound is the teacher's size plus the child's. With `--compensated` a GPT-NeoX is cut layer by layer,
corrected on random tokens, and its folder is proven. With `--intake` the teacher is taken in, and the prompts of an
export are recorded of it, both layer by layer in float32.

Usage: python benchmarks/memory.py [--num-layers 24] [--compensated [--hidden-size 2048] [--num-sequences 16] [--refit]]
       python benchmarks/memory.py --intake [--num-layers 24] [--hidden-size 2048]

Last line: a JSON object with `teacher_bytes`, `child_bytes`, `peak_bytes` and `peak_over_bound`, or with `--intake`
`peak_over_plan`; with `--compensated`,
in place of the last, `peak_over_layer`, the peak over a layer of the teacher in its file, `peak_over_plan`, over what
the plan expects, `cpu_seconds`, which count this process alone where others share the machine, above those of the tiny
teacher, and `seconds_over_plan`, those over what the plan expects at the speed that was tried before the cut and after
it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.certificate import probe_lengths, prove
from budwood.models.checkpoint import Checkpoint, own_weights, read_architecture
from budwood.models.device import Compute, release_memory
from budwood.models.offload import offloaded
from budwood.models.prompts import prompt_lengths, record_prompts
from budwood.models.teacher import byte_tokenizer
from budwood.records.workload import Workload
from budwood.reporting.streaming import TextReading, certificate_memory, cut_memory, intake_memory
from budwood.study.costs import Correction, Extent, forward_of, proof_cost
from budwood.subnet.compensate import cut_out, gaps_of, write_cut
from budwood.subnet.extract import extract_child, resolve
from budwood.subnet.intake import verify_teacher
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.probe import probe_machine
from budwood.subnet.settings import Compensation, Ordering

VOCAB, HEAD_DIM, BATCH_SIZE = 50_304, 128, 4
Run = Callable[[Path, Path], tuple[float, int]]
"""Takes a teacher and where its child goes; returns what `cut` does."""


def config_of(hidden_size: int, num_layers: int, *, compensated: bool) -> PretrainedConfig:
    """Return the config of the teacher: of the proportions of Pythia, or of a Llama."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // HEAD_DIM,
        "tie_word_embeddings": False,
    }
    if compensated:
        return GPTNeoXConfig(**sizes, intermediate_size=4 * hidden_size, rotary_pct=0.25, use_parallel_residual=True)
    return LlamaConfig(**sizes, intermediate_size=11 * hidden_size // 4, num_key_value_heads=hidden_size // HEAD_DIM)


def write_teacher(folder: Path, config: PretrainedConfig) -> None:
    """Write a random model in bfloat16, a shard for each layer, with a tokenizer; a layer is in memory at a time."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    files: dict[str, str] = {}
    for prefix, part in parts_of(model):
        part.to_empty(device="cpu").apply(model._init_weights)  # noqa: SLF001 - what `from_config` calls
        weights = {f"{prefix}.{name}": weight for name, weight in part.state_dict().items()}
        save_file(weights, folder / f"{prefix}.safetensors", metadata={"format": "pt"})
        files |= dict.fromkeys(weights, f"{prefix}.safetensors")
        part.to("meta")
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that have the weights of a model, with their names: layers, and what is beside them."""
    for name, module in model.named_children():
        for inner, part in [*module.named_children()] or [("", module)]:
            if isinstance(part, nn.ModuleList):
                yield from ((f"{name}.{inner}.{layer}", each) for layer, each in enumerate(part))
            elif any(True for _ in part.parameters()):
                yield f"{name}.{inner}".rstrip("."), part


def half_of(architecture: Architecture) -> Selection:
    """Select about half of a teacher: three quarters of its layers and channels, half of its neurons."""
    layer = replace(architecture.layers[0], intermediate_size=architecture.layers[0].intermediate_size // 2)
    depth, width = architecture.num_hidden_layers * 3 // 4, architecture.hidden_size * 3 // 4
    return Selection.prefix(replace(architecture, hidden_size=width, layers=(layer,) * depth))


def cut(teacher: Path, child: Path) -> tuple[float, int]:
    """Cut half of a teacher and write it.

    Returns:
        the seconds of this process, without those of ordering, and the runs of dropped layers that follow a kept one.
    """
    ordered = open_ordered(teacher, Ordering(ordering="magnitude"))
    begun = time.process_time()
    own_weights(extract_child(ordered, half_of(ordered.ranked))).save_pretrained(child)
    return time.process_time() - begun, num_gaps(ordered)


def compensate(teacher: Path, child: Path, settings: Compensation, text: Extent) -> tuple[float, int]:
    """Cut half of a teacher, correct it on random tokens, write it and prove it; return what `cut` does."""
    ordered = open_ordered(teacher, Ordering(ordering="magnitude"))
    begun = time.process_time()
    windows = torch.randint(0, 256, (text.count, text.length), generator=torch.Generator().manual_seed(0))
    parts = cut_out(ordered, half_of(ordered.ranked), windows, settings, batch_size=BATCH_SIZE)
    _, expected = write_cut(parts, teacher, child, windows[0], torch.device("cpu"))
    count = num_parameters(parts.architecture)
    prove(expected, child, parts.architecture, ParameterBin(count, count + 1), windows[0])
    return time.process_time() - begun, num_gaps(ordered)


def take_in(teacher: Path, _child: Path) -> tuple[float, int]:
    """Take a teacher in, and record prompts of it; return what `cut` does."""
    checkpoint, begun = Checkpoint.open(teacher), time.process_time()
    verify_teacher(checkpoint, checkpoint.load_tokenizer())
    with offloaded(checkpoint) as model:
        record_prompts(model)
    return time.process_time() - begun, 0


def num_gaps(ordered: OrderedTeacher) -> int:
    """Return how many runs of dropped layers follow a kept one."""
    kept = resolve(ordered, half_of(ordered.ranked)).kept_layers
    return len(gaps_of(kept, ordered.architecture.num_hidden_layers))


def measured(run: Run, teacher: Path, child: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return what a cut took of this process above what it had taken of a tiny teacher: resident memory and seconds."""
    speeds = [tried_speed()] if arguments.compensated else []
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "teacher"
        write_teacher(tiny, config_of(2 * HEAD_DIM, 4, compensated=arguments.compensated))
        # The first one imports, too.
        for each in ("first", "second"):
            own, gaps = run(tiny, Path(folder) / each)
        planned = planned_work(tiny, gaps, arguments).times(-1)
    release_memory()
    # Linux begins again to look for the peak.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    seconds, gaps = run(teacher, child)
    found = {"cpu_seconds": round(seconds - own, 2), "peak_bytes": peak_bytes() - before}
    if not arguments.compensated:
        return found
    planned += planned_work(teacher, gaps, arguments)
    speeds.append(tried_speed())
    return found | {"planned_seconds": fmean(planned.seconds(speed) for speed in speeds)}


def tried_speed() -> Workload:
    """Return what this process does in a second of its own."""
    return probe_machine(Compute(torch.device("cpu"), "bfloat16"), clock=time.process_time)


def peak_bytes() -> int:
    """Return the largest resident memory of this process; `getrusage` would count that of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def weight_bytes(folder: Path) -> int:
    """Return the size of a folder's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    """Write a teacher, cut it in another process, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-layers", type=int, default=24)
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--compensated", action="store_true")
    parser.add_argument("--intake", action="store_true", help="the teacher is taken in, and not cut")
    parser.add_argument("--num-sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--refit", action="store_true", help="the child, too, on the same tokens")
    parser.add_argument("--cut", nargs=2, type=Path, metavar=("TEACHER", "CHILD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cut:
        run: Run = cut
        if arguments.compensated:
            run = partial(compensate, settings=corrections(arguments), text=text_of(arguments))
        run = take_in if arguments.intake else run
        sys.stdout.write(json.dumps(measured(run, *arguments.cut, arguments)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        teacher, child = Path(folder) / "teacher", Path(folder) / "child"
        write_teacher(
            teacher, config_of(arguments.hidden_size, arguments.num_layers, compensated=arguments.compensated)
        )
        command = [sys.executable, __file__, *sys.argv[1:], "--cut", str(teacher), str(child)]
        begun = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very script
        seconds, found = time.perf_counter() - begun, json.loads(done.stdout.splitlines()[-1])
        figures = {"teacher_bytes": weight_bytes(teacher), "child_bytes": weight_bytes(child), **found}
        peak = found["peak_bytes"]
        if arguments.intake:
            figures |= {"peak_over_plan": round(peak / intake_bytes(read_architecture(teacher)), 3)}
        elif arguments.compensated:
            whole = read_architecture(teacher)
            figures |= {"peak_over_layer": round(peak / layer_bytes(whole), 2)}
            figures |= {
                "peak_over_plan": round(peak / planned_bytes(whole, arguments), 3),
                "seconds": round(seconds, 1),
                "seconds_over_plan": round(found["cpu_seconds"] / figures.pop("planned_seconds"), 3),
            }
        else:
            bound = figures["teacher_bytes"] + figures["child_bytes"]
            figures |= {"peak_over_bound": round(peak / bound, 3)}
    sys.stdout.write(json.dumps(figures) + "\n")


def planned_bytes(teacher: Architecture, arguments: argparse.Namespace) -> int:
    """Return the peak that the plan expects."""
    text = text_of(arguments)
    reading = TextReading(num_sequences=text.count, length=text.length, batch_size=BATCH_SIZE, size=2)
    return cut_memory(teacher, half_of(teacher).architecture(teacher), corrections(arguments), reading).total


def intake_bytes(teacher: Architecture) -> int:
    """Return the peak that the plan expects of a teacher that is taken in, and whose prompts are recorded."""
    prompts = certificate_memory(teacher, 2, prompt_lengths(2048), whole=False)
    return max(intake_memory(teacher, 2).total, prompts.total)


def planned_work(folder: Path, gaps: int, arguments: argparse.Namespace) -> Workload:
    """Return the work that the plan expects of a cut with some runs of dropped layers, the proof included."""
    teacher, text = read_architecture(folder), text_of(arguments)
    child = half_of(teacher).architecture(teacher)
    proof = proof_cost(forward_of(child), probe_lengths(text.length))
    cut = Correction(teacher, child, gaps, corrections(arguments), text, text)
    return cut.work() + Workload(products=proof.flops)


def corrections(arguments: argparse.Namespace) -> Compensation:
    """Return the corrections that are made."""
    return Compensation(refit=arguments.refit)


def text_of(arguments: argparse.Namespace) -> Extent:
    """Return the calibration text."""
    return Extent(arguments.num_sequences, arguments.length)


def layer_bytes(teacher: Architecture) -> int:
    """Return the size of a layer in bfloat16."""
    return 2 * (num_parameters(teacher) - num_parameters(teacher.with_layers(teacher.layers[1:])))


if __name__ == "__main__":
    main()
