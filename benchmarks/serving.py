"""How many tokens per second sub-networks answer with in serving engines, and which engines open which shapes.

SmolLM2-135M, a half and a quarter of it, cut by magnitude, answer in vLLM (float32, a batch of 8 prompts) and in
llama.cpp (f16 weights, one prompt): all three are loaded, then each answers in turn, round after round, on two threads.
More shapes are only opened: one that is layer-wise with whole heads, as the quickstart's space has it, and two that its
search may end with if `servable` is left out (heads of 50, and of 6 to 54 by layer). Every answer is compared with the
log-probabilities of the child in memory.

Usage: python benchmarks/serving.py --engines FOLDER [--num-rounds 3]; about ten minutes on two cores. `make engines`
makes the folder.

Last line: a JSON object with `vllm_ratio_half, vllm_ratio_quarter, llama_cpp_ratio_half, llama_cpp_ratio_quarter`
(tokens per second relative to the teacher, medians over rounds), `tokens_per_second` by engine and model, and
`opens_in`: for every folder the engines that answer as they should.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from cuts import Shape, sized
from quickstart import CACHE_DIR, TEACHER
from transformers import PreTrainedModel

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_model, load_tokenizer, own_weights, save_checkpoint
from budwood.models.engines import GGUF, LLAMA_CPP, ask, python_of
from budwood.models.gguf_export import write_gguf
from budwood.models.prompts import record_prompts, write_check
from budwood.models.teacher import fetch_teacher
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering

SHAPES: dict[str, Shape] = {
    "half": (512, 3, 64, 1024, 18),
    "quarter": (320, 2, 48, 704, 18),
    "heads_of_50": (480, 3, 50, 1024, 19),
}
TIMED = ("teacher", "half", "quarter")
NUM_ANSWER_TOKENS = 64

VLLM = f"""
import json, os, sys, time
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_KVCACHE_SPACE="1")
from vllm import LLM, SamplingParams
rounds, *folders = sys.argv[1:]
models = [LLM(folder, dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True) for folder in folders]
asked = SamplingParams(max_tokens={NUM_ANSWER_TOKENS}, ignore_eos=True, temperature=0)
prompts = [{{"prompt_token_ids": list(range(100 * row + 5, 100 * row + 37))}} for row in range(8)]
for turn in range(int(rounds) + 1):
    for folder, model in zip(folders, models):
        started = time.perf_counter()
        model.generate(prompts, asked, use_tqdm=False)
        if turn:
            rate = 8 * {NUM_ANSWER_TOKENS} / (time.perf_counter() - started)
            print(json.dumps({{"model": os.path.basename(folder), "rate": rate}}), flush=True)
"""
NODE = f"""
import path from "node:path";
const [library, rounds, ...folders] = process.argv.slice(2);
const {{getLlama}} = await import(library);
const llama = await getLlama({{gpu: false, build: "never", logLevel: "error", maxThreads: 2}});
const sequences = [];
for (const folder of folders) {{
    const model = await llama.loadModel({{modelPath: path.join(folder, "{GGUF}")}});
    sequences.push((await model.createContext({{contextSize: 256, threads: 2}})).getSequence());
}}
for (let turn = 0; turn <= rounds; turn++)
    for (const [place, sequence] of sequences.entries()) {{
        await sequence.clearHistory();
        const started = performance.now(), prompt = Array.from({{length: 32}}, (_, i) => 105 + i);
        let answered = 0;
        for await (const token of sequence.evaluate(prompt, {{yieldEogToken: true}}))
            if (++answered >= {NUM_ANSWER_TOKENS}) break;
        const rate = 1000 * answered / (performance.now() - started);
        if (turn > 0) console.log(JSON.stringify({{model: path.basename(folders[place]), rate}}));
    }}
process.exit(0);
"""


def write_models(folder: Path, cache_dir: Path) -> dict[str, Path]:
    """Write the teacher and all shapes, with prompts, and as GGUF where there is a form."""
    teacher = fetch_teacher(TEACHER, cache_dir).folder
    ordered = open_ordered(teacher, Ordering(ordering="magnitude", layer_score="influence"))
    shapes = {name: sized(ordered.architecture, shape) for name, shape in SHAPES.items()}
    shapes["layerwise"] = layerwise(shapes["half"], (64,), ordered.architecture)
    shapes["heads_of_6_to_54"] = layerwise(shapes["half"], (6, 24, 54), ordered.architecture)
    models = {"teacher": load_model(teacher, torch.float32)}
    models |= {name: own_weights(cut(ordered, shape)) for name, shape in shapes.items()}
    written = {}
    for name, model in models.items():
        target = save_checkpoint(model, load_tokenizer(teacher), folder / name)
        write_check(target, record_prompts(model))
        try:
            write_gguf(target, target / GGUF)
        except ValueError as error:
            sys.stdout.write(f"{name}: {error}\n")
        written[name] = target
    return written


def cut(ordered: OrderedTeacher, shape: Architecture) -> PreTrainedModel:
    """Return the child that takes the first of everything."""
    return extract_child(ordered, Selection.prefix(shape))


def layerwise(shape: Architecture, head_dims: tuple[int, ...], teacher: Architecture) -> Architecture:
    """Return a shape whose layers differ in groups, neurons, and head dimension."""
    queries = teacher.layers[0].heads_per_group
    layers = [
        replace(
            layer,
            num_key_value_heads=1 + rank % 3,
            num_attention_heads=(1 + rank % 3) * queries,
            head_dim=head_dims[rank % len(head_dims)],
            intermediate_size=640 + 32 * rank,
        )
        for rank, layer in enumerate(shape.layers)
    ]
    return shape.with_layers(tuple(layers))


def rates(command: list[str]) -> dict[str, float]:
    """Return the median rate of every model that a process reports."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(done.stderr[-2000:])
    names = dict.fromkeys(line["model"] for line in lines)
    return {name: statistics.median(line["rate"] for line in lines if line["model"] == name) for name in names}


def opens_in(folders: dict[str, Path], home: Path) -> dict[str, list[str]]:
    """Return, for every folder, the engines that answer as they should."""
    found: dict[str, list[str]] = {name: [] for name in folders}
    names = {folder: name for name, folder in folders.items()}
    for engine in ("transformers", "vllm", "llama.cpp"):
        asked = [folder for folder in folders.values() if engine != "llama.cpp" or (folder / GGUF).is_file()]
        for folder, answer in ask(engine, asked, home).items():
            said = answer.model_dump_json(exclude={"folder"}, exclude_none=True)
            sys.stdout.write(f"{names[folder]}: {said}\n")
            if answer.agrees:
                found[names[folder]].append(engine)
    return found


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    home = arguments.engines.resolve()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder), arguments.cache_dir / "quickstart")
        opened = opens_in(models, home)
        timed = [str(arguments.num_rounds), *(str(models[name]) for name in TIMED)]
        script = Path(folder) / "rates.mjs"
        script.write_text(NODE)
        library = (home / LLAMA_CPP / "dist" / "index.js").as_uri()
        found = {
            "vllm": rates([str(python_of(home)), "-I", "-c", VLLM, *timed]),
            "llama_cpp": rates(["node", str(script), library, *timed]),
        }
    ratios = {
        f"{engine}_ratio_{name}": round(rate[name] / rate["teacher"], 2)
        for engine, rate in found.items()
        for name in TIMED[1:]
    }
    speeds = {engine: {name: round(rate, 1) for name, rate in each.items()} for engine, each in found.items()}
    sys.stdout.write(json.dumps({**ratios, "tokens_per_second": speeds, "opens_in": opened}) + "\n")


if __name__ == "__main__":
    main()
