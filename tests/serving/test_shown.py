"""The commands of the documentation that serve a model with vLLM."""

import json
import os
import shlex
import signal
import subprocess
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import torch
from exports import KINDS, write_export
from pages import await_answer
from servers import free_port
from shown import commands

from budwood.models.checkpoint import load_model
from budwood.models.engines import python_of

pytestmark = [pytest.mark.serving, pytest.mark.slow]

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
print(json.dumps([vars(parser.parse_args(command))["model_tag"] for command in json.loads(sys.argv[1])]))
"""


def test_arguments_of_vllm_exist(vllm):
    """Its CPU build has no `vllm` command that works, so its own parser reads them."""
    shown = [shlex.split(command)[2:] for command in commands() if command.startswith("vllm serve ")]
    done = subprocess.run(
        [python_of(vllm), "-c", PARSE, json.dumps(shown)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [command[0] for command in shown]


def test_the_server_of_vllm_answers(vllm: Path, tmp_path: Path):
    (command,) = [command for command in commands() if "vllm.entrypoints.openai.api_server" in command]
    variable, *arguments = shlex.split(command)
    model = arguments[arguments.index("--model") + 1]
    (tmp_path / model).parent.mkdir(parents=True)
    folder = write_export(KINDS["llama-whole"], tmp_path / model)
    (tmp_path / ".engines").symlink_to(vllm)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= dict([variable.split("=")]) | {"HF_HUB_OFFLINE": "1"}
    port, log = free_port(), tmp_path / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*arguments, "--enforce-eager", "--host=127.0.0.1", f"--port={port}"],
            cwd=tmp_path,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            await_answer(port, "/v1/models", process, log)
            asked = {"model": model, "prompt": list(b"def "), "max_tokens": 4, "temperature": 0, "logprobs": 1}
            with closing(HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
                connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
                (choice,) = json.load(connection.getresponse())["choices"]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with torch.no_grad():
        likeliest = load_model(folder, torch.float32)(torch.tensor([list(b"def ")])).logits[0, -1].log_softmax(-1).max()
    # vLLM serves in the export's own precision.
    assert choice["logprobs"]["token_logprobs"][0] == pytest.approx(likeliest.item(), abs=0.05)
