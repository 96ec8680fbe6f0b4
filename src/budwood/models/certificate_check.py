"""Compare an engine with the log-probabilities beside this file: `python certificate_check.py ENGINE [FOLDER ...]`.

ENGINE is transformers, vllm, or llama.cpp; the last reads model.gguf through node-llama-cpp, whose folder NODE_FOLDER
names. Needs the standard library and the engine: run it with the Python that has the engine. Prints a line of JSON for
every folder; ends with 1 where one fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOLERANCES = {"transformers": 1e-3, "vllm": 1e-3, "llama.cpp": 0.05}
"""Nats, of every log-probability. Weights in fewer bits than float32 change single ones by more, and llama.cpp rounds
what they are multiplied with too: of such a file it is the mean."""
NODE = """
const [library, modelPath, prompts] = JSON.parse(process.argv[2]);
const {getLlama} = await import(library);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
// Keys of some models do not fit float16, in which its cache is kept and its flash attention adds up: at a single token
// that makes up to 0.3 nats.
const contextSize = Math.max(...prompts.map((ids) => ids.length)) + 8;
const cache = {experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"};
// Its threads wait by spinning: beside other work, two of them may take twenty times as long as one.
const threads = Number(process.env.OMP_NUM_THREADS) || undefined;
const context = await model.createContext({contextSize, flashAttention: false, threads, ...cache});
const sequence = context.getSequence(), found = [];
for (const ids of prompts) {
    await sequence.clearHistory();
    const said = [];
    // Every step has the probabilities of the whole vocabulary: those of a long prompt would not fit the memory.
    for (let at = 0; at < ids.length; at += 64) {
        const piece = ids.slice(at, at + 64).map((id) => [id, {generateNext: {probabilities: true}}]);
        const steps = await sequence.controlledEvaluate(piece);
        said.push(...steps.map((step, i) => Math.log(step.next.probabilities.get(ids[at + i + 1]))));
    }
    found.push(said.slice(0, -1));
}
console.log(JSON.stringify([found, model.fileInfo.metadata.general.file_type !== 0]));
process.exit(0);
"""


def transformers(folder: Path, prompts: list[list[int]]) -> Any:
    """Run all prompts as one padded batch."""
    import torch  # noqa: PLC0415 - of the engine alone
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    longest = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    rows = enumerate(prompts)
    return [[found[row, i, prompt[i + 1]].item() for i in range(len(prompt) - 1)] for row, prompt in rows], False


def misreading_of_vllm(config: dict[str, Any]) -> str | None:
    """Return what vLLM's own class of a model takes otherwise than its config says, without a word, or None."""
    kind, head_dim = config["model_type"], config.get("head_dim")
    if kind == "qwen2" and head_dim is not None and head_dim * config["num_attention_heads"] != config["hidden_size"]:
        return "vLLM's own Qwen 2 takes it that heads fill the hidden size"
    if kind == "qwen3" and config.get("attention_bias"):
        return "vLLM's own Qwen 3 leaves out the bias of attention's output"
    if kind == "ministral3":
        return "vLLM's own Ministral 3 does not scale queries by position"
    return None


def vllm(folder: Path, prompts: list[list[int]]) -> Any:
    """Run all prompts as one batch."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - reads the environment

    config = json.loads((folder / "config.json").read_text())
    implementation = "transformers" if misreading_of_vllm(config) else "auto"
    limits = {"max_model_len": max(map(len, prompts)) + 1, "max_num_seqs": len(prompts)}
    model = LLM(
        str(folder), dtype="float32", enforce_eager=True, trust_remote_code=True, model_impl=implementation, **limits
    )
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    answers = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], asked, use_tqdm=False)
    return [[next(iter(step.values())).logprob for step in answer.prompt_logprobs[1:]] for answer in answers], False


def llama_cpp(folder: Path, prompts: list[list[int]]) -> Any:
    """Run the prompts one by one.

    Raises:
        FileNotFoundError: the model or the engine is not there.
        RuntimeError: the engine failed.
    """
    library = Path(os.environ.get("NODE_FOLDER", ".")).resolve() / "node_modules/node-llama-cpp/dist/index.js"
    model = (folder / "model.gguf").resolve()
    if not model.is_file():
        raise FileNotFoundError(f"{model} is not there; `serving: {{gguf: f16}}` writes it")
    if not library.is_file():
        raise FileNotFoundError(f"{library} is not there; NODE_FOLDER names the folder that has it")
    request = json.dumps([library.as_uri(), str(model), prompts])
    # In a file: node-llama-cpp starts node again, with the options that this one has.
    with tempfile.NamedTemporaryFile("w", suffix=".mjs") as script:
        script.write(NODE)
        script.flush()
        command = ["node", script.name, request]
        done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    found, rounded = json.loads(done.stdout.splitlines()[-1])
    return found, rounded


def check(engine: str, folder: Path) -> dict[str, Any]:
    """Return the largest difference from the certificate, or the error that came instead."""
    said: dict[str, Any] = {"folder": str(folder), "engine": engine}
    recorded = folder / "certificate_prompts.json"
    if not recorded.is_file():
        return said | {"agrees": False, "error": f"{folder} has no {recorded.name}, so it is no export of budwood"}
    prompts = json.loads(recorded.read_text())
    try:
        found, rounded = {"transformers": transformers, "vllm": vllm, "llama.cpp": llama_cpp}[engine](
            folder, [prompt["input_ids"] for prompt in prompts]
        )
    except ModuleNotFoundError as error:
        advice = f"run this script with the Python that has {engine}, this one is {sys.executable}"
        return said | {"agrees": False, "error": f"{error}; {advice}"}
    except Exception as error:  # noqa: BLE001 - engines raise what they like; it is reported
        return said | {"agrees": False, "error": f"{type(error).__name__}: {error}"}
    pairs = zip((p["logprobs"] for p in prompts), found, strict=True)
    differences = [abs(a - b) for here, there in pairs for a, b in zip(here, there, strict=True)]
    mean = sum(differences) / len(differences)
    agrees = all(difference <= TOLERANCES[engine] for difference in ([mean] if rounded else differences))
    size = {"largest_difference": max(differences), "mean_difference": mean, "num_tokens": len(differences)}
    return said | {"agrees": agrees, "rounded": rounded, **size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=TOLERANCES)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(__file__).parent], help="exports; this one")
    asked = parser.parse_args()
    results = []
    for place in asked.folders:
        results.append(check(asked.engine, place))
        print(json.dumps(results[-1]), flush=True)  # noqa: T201 - its product
    sys.exit(not all(result["agrees"] for result in results))
