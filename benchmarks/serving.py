"""How many tokens per second the winners of a finished quickstart answer with in engines, and which open them.

Every winner is compared with its certificate's log-probabilities in transformers, vLLM and llama.cpp (f16 weights).
Then the teacher and the winners answer in vLLM (float32, a batch of 8 prompts) and in llama.cpp (f16, one prompt): all
are loaded, and each answers in turn, round after round, on one thread. Seconds are the processor's: other work on the
machine changes little.

Usage: python benchmarks/serving.py [DATA] --engines FOLDER [--num-rounds 3]; about ten minutes on a free core, and
6 GB of memory. `make run` makes DATA, `make engines` the folder of engines.

Last line: a JSON object with `vllm_ratio_half, llama_cpp_ratio_half` and the same of `quarter` and `quarter_layerwise`
(tokens per second relative to the teacher, medians over rounds), `tokens_per_second` by engine and model, and
`opens_in`: for every winner the engines that answer as its certificate says.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from budwood.models.engines import GGUF, LLAMA_CPP, ask, python_of
from budwood.models.gguf_export import write_gguf
from budwood.records.serving import EngineName

TEACHER = "teacher"
WINNERS = {
    "half": "half/coarse_uniform",
    "quarter": "quarter/coarse_uniform",
    "quarter_layerwise": "quarter/coarse_layerwise",
}
ENGINES: tuple[EngineName, ...] = ("transformers", "vllm", "llama.cpp")
NUM_ANSWER_TOKENS = 64

VLLM = f"""
import json, os, sys, time
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_CPU_KVCACHE_SPACE="1")
from vllm import LLM, SamplingParams
rounds, *folders = sys.argv[1:]
options = dict(dtype="float32", max_model_len=256, max_num_seqs=8, enforce_eager=True, trust_remote_code=True)
models = [LLM(folder, **options) for folder in folders]
asked = SamplingParams(max_tokens={NUM_ANSWER_TOKENS}, ignore_eos=True, temperature=0)
prompts = [{{"prompt_token_ids": list(range(100 * row + 5, 100 * row + 37))}} for row in range(8)]
for turn in range(int(rounds) + 1):
    for folder, model in zip(folders, models):
        started = time.process_time()
        model.generate(prompts, asked, use_tqdm=False)
        if turn:
            rate = 8 * {NUM_ANSWER_TOKENS} / (time.process_time() - started)
            print(json.dumps({{"model": os.path.basename(folder), "rate": rate}}), flush=True)
"""
NODE = f"""
import path from "node:path";
const [library, rounds, ...folders] = process.argv.slice(2);
const {{getLlama}} = await import(library);
const llama = await getLlama({{gpu: false, build: "never", logLevel: "error", maxThreads: 1}});
const sequences = [];
for (const folder of folders) {{
    const model = await llama.loadModel({{modelPath: path.join(folder, "{GGUF}")}});
    sequences.push((await model.createContext({{contextSize: 256, threads: 1}})).getSequence());
}}
for (let turn = 0; turn <= rounds; turn++)
    for (const [place, sequence] of sequences.entries()) {{
        await sequence.clearHistory();
        const started = process.cpuUsage(), prompt = Array.from({{length: 32}}, (_, i) => 105 + i);
        let answered = 0;
        for await (const token of sequence.evaluate(prompt, {{yieldEogToken: true}}))
            if (++answered >= {NUM_ANSWER_TOKENS}) break;
        const {{user, system}} = process.cpuUsage(started), rate = 1e6 * answered / (user + system);
        if (turn > 0) console.log(JSON.stringify({{model: path.basename(folders[place]), rate}}));
    }}
process.exit(0);
"""


def copy_models(data: Path, folder: Path) -> dict[str, Path]:
    """Copy the teacher and the winners of a study, with a GGUF file beside each."""
    places = {TEACHER: data / "03_primary" / TEACHER}
    places |= {name: data / "06_models" / place / "subnet" for name, place in WINNERS.items()}
    missing = [str(place) for place in places.values() if not place.is_dir()]
    if missing:
        raise SystemExit(f"{data} has no finished quickstart, which `make run` makes: {', '.join(missing)} is missing")
    for name, place in places.items():
        target = shutil.copytree(place, folder / name)
        write_gguf(target, target / GGUF)
    return {name: folder / name for name in places}


def rates(command: list[str]) -> dict[str, float]:
    """Return the median rate of every model that a process reports."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(done.stderr[-2000:])
    names = dict.fromkeys(line["model"] for line in lines)
    return {name: statistics.median(line["rate"] for line in lines if line["model"] == name) for name in names}


def opens_in(winners: dict[str, Path], home: Path) -> dict[str, list[str]]:
    """Return, for every winner, the engines that answer as they should."""
    found: dict[str, list[str]] = {name: [] for name in winners}
    for engine in ENGINES:
        for name, answer in zip(winners, ask(engine, list(winners.values()), home).values(), strict=True):
            said = answer.model_dump_json(exclude={"folder"}, exclude_none=True)
            sys.stdout.write(f"{name}: {said}\n")
            found[name] += [engine] * answer.agrees
    return found


def main() -> None:
    """Measure and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"))
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--num-rounds", type=int, default=3)
    arguments = parser.parse_args()
    home = arguments.engines.resolve()
    with tempfile.TemporaryDirectory() as folder:
        models = copy_models(arguments.data, Path(folder))
        opened = opens_in({name: models[name] for name in WINNERS}, home)
        timed = [str(arguments.num_rounds), *map(str, models.values())]
        script = Path(folder) / "rates.mjs"
        script.write_text(NODE)
        library = (home / LLAMA_CPP / "dist" / "index.js").as_uri()
        found = {
            "llama_cpp": rates(["node", str(script), library, *timed]),
            "vllm": rates([str(python_of(home)), "-I", "-c", VLLM, *timed]),
        }
    ratios = {
        f"{engine}_ratio_{name}": round(rate[name] / rate[TEACHER], 2)
        for engine, rate in found.items()
        for name in WINNERS
    }
    speeds = {engine: {name: round(rate, 1) for name, rate in each.items()} for engine, each in found.items()}
    sys.stdout.write(json.dumps({**ratios, "tokens_per_second": speeds, "opens_in": opened}) + "\n")


if __name__ == "__main__":
    main()
