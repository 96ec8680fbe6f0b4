"""The best sub-network that whittle 0.6.0's random search finds in a parameter bin of a pretrained Llama.

Whatever whittle has is whittle's own: litgpt's configuration and conversion of the teacher, the super-network, the
random search with rejection (`multi_objective_search` by `stratified_random_search`), and `set_sub_network`, which
takes the first entries of every axis. whittle imports its samplers from syne-tune, so that is installed: a sampler
written again would be less faithful. The space is whittle's `small` (hidden size log-uniform from 64; layers, heads and
neurons uniform) with the two sizes that it leaves out: those head sizes of `llama_joint` that the teacher has, and
uniform query groups.

Three things are ours:

* the bin, which whittle asks by `put_in_bin`: it takes what has the right number of parameters, the tied table counted
  once, and sizes that whittle accepts. whittle's own bins have no lower bound, and its `compute_parameters` counts the
  table twice and divides the heads by the super-network's groups;
* the loss: the mean over the tokens of fixed windows, from logits in float32;
* the history: a restart draws the same candidates again and reads the losses that are there.

Before the search, the super-network must have the loss of the teacher that the caller measured. The script runs in the
environment of `peers.WHITTLE_SEARCH_INSTALLS`, imports nothing of budwood, and closes its output with one line of JSON.
Times are of the wall clock (`*_seconds`) and of the processor (`*_cpu_seconds`; the steadier one on a busy machine).
"""

import argparse
import hashlib
import json
import sys
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from litgpt import Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors.torch import load_file, save_file
from syne_tune.config_space import choice, randint
from whittle.convert import save_as_hf_checkpoint
from whittle.exceptions import IllegalSubNetworkError
from whittle.models.gpt import GPT
from whittle.models.gpt.extract import extract_current_sub_network
from whittle.search import multi_objective_search
from whittle.search.search_spaces import SmallSearchSpace

HEAD_SIZES = (8, 16, 32, 64, 128)
"""Of whittle's `llama_joint` space."""
STEPS = ("draw", "set", "forward")
"""What is timed: drawing until the bin takes a candidate, `set_sub_network`, and all forwards of a candidate."""
MAX_PARITY_NATS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a decoder whose layers are all alike, in Hugging Face's words."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int

    def matmul_weights(self, vocab_size: int) -> int:
        """Return the weights of all matrix products, the output matrix among them."""
        attention = 2 * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        layer = self.hidden_size * (attention + 3 * self.intermediate_size)
        return vocab_size * self.hidden_size + self.num_hidden_layers * layer

    def num_parameters(self, vocab_size: int) -> int:
        """Return all parameters, the embedding tied to the output matrix."""
        return self.matmul_weights(vocab_size) + (2 * self.num_hidden_layers + 1) * self.hidden_size

    def flops_per_token(self, vocab_size: int, length: int) -> int:
        """Return forward FLOPs, with attention over all `length` positions."""
        attention = 4 * self.num_hidden_layers * self.num_attention_heads * self.head_dim * length
        return 2 * self.matmul_weights(vocab_size) + attention

    def set_in(self, model: GPT) -> None:
        """Mark the sub-network of these sizes in a super-network; `IllegalSubNetworkError` where whittle refuses it."""
        model.set_sub_network(
            sub_network_n_embd=self.hidden_size,
            sub_network_intermediate_size=self.intermediate_size,
            sub_network_num_heads=self.num_attention_heads,
            sub_network_n_layers=self.num_hidden_layers,
            sub_network_query_groups=self.num_key_value_heads,
            sub_network_head_size=self.head_dim,
        )


def search_space(teacher: Config) -> dict[str, Any]:
    """Return syne-tune's domains of all `Sizes`."""
    small = SmallSearchSpace(teacher).config_space
    return {
        "hidden_size": small["n_embd"],
        "num_hidden_layers": small["n_layers"],
        "num_attention_heads": small["heads"],
        "num_key_value_heads": randint(1, teacher.n_query_groups),
        "head_dim": choice([size for size in HEAD_SIZES if size <= teacher.head_size]),
        "intermediate_size": small["intermediate_size"],
    }


def load_teacher(name: str, folder: Path, length: int) -> GPT:
    """Return the super-network with a checkpoint's weights in float32, for windows of `length` tokens."""
    model = GPT(Config.from_name(name))
    weights: dict[str, torch.Tensor] = {}
    layers: dict[int, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        copy_weights_hf_llama(model.config, layers, weights, load_file(file), dtype=torch.float32)
    if not torch.equal(weights["lm_head.weight"], weights["transformer.wte.weight"]):
        raise ValueError(f"teacher must tie its embeddings, got {folder}")
    model.load_state_dict(weights)
    model.max_seq_length = length  # as whittle's search does: every candidate rebuilds tables of this length
    return model.eval()


@torch.inference_mode()
def mean_loss(model: GPT, windows: torch.Tensor, batch_size: int) -> float:
    """Return nats per token of the sub-network that is set, on windows [N, T + 1]."""
    total = 0.0
    for batch in windows.split(batch_size):
        logits = model(batch[:, :-1]).float().flatten(0, 1)
        total += float(torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()


def check_parity(model: GPT, heldout: torch.Tensor, teacher_nats: float, batch_size: int) -> float:
    """Return the super-network's loss with the whole teacher set; RuntimeError where it is not the teacher's."""
    model.set_sub_network(sub_network_n_embd=model.config.n_embd)
    nats = mean_loss(model, heldout, batch_size)
    if not abs(nats - teacher_nats) <= MAX_PARITY_NATS:
        raise RuntimeError(f"the super-network's loss is {nats:.6f} nats, the teacher's {teacher_nats:.6f}")
    return nats


def now() -> np.ndarray:
    """Return the wall clock and the processor's, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class Search:
    """A search under way: whittle asks it which candidates lie in the bin, and what those are worth."""

    def __init__(self, model: GPT, windows: torch.Tensor, options: argparse.Namespace) -> None:
        """Read what earlier runs measured, and start the clock."""
        self.model, self.windows, self.options = model, windows, options
        self.records: list[dict[str, Any]] = []
        text = options.history.read_text(encoding="utf-8") if options.history.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a kill left the last line unfinished
            options.history.write_text(whole, encoding="utf-8")
        self._known = [json.loads(line) for line in whole.splitlines()]
        self._key = hashlib.sha256(options.dtype.encode() + windows.numpy().tobytes()).hexdigest()[:16]
        self._clock = now()

    def put_in_bin(self, candidate: dict[str, int]) -> bool:
        """Return whether the bin takes a candidate; whittle draws another where it does not."""
        sizes, (low, high) = Sizes(**candidate), self.options.bin
        if not low <= sizes.num_parameters(self.model.config.vocab_size) <= high:
            return False
        try:
            sizes.set_in(self.model)
        except IllegalSubNetworkError:
            return False
        return True

    def __call__(self, candidate: dict[str, int]) -> tuple[float, int]:
        """Return loss and parameters of a candidate, adding a record to the history unless it is there."""
        sizes, number = Sizes(**candidate), len(self.records)
        identity = {"evaluation": number, "key": self._key, "sizes": asdict(sizes)}
        if number >= len(self._known):
            record = {**identity, **self._measure(sizes)}
            with self.options.history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        elif not identity.items() <= (record := self._known[number]).items():
            raise ValueError(f"history must be of this search; evaluation {number} of {self.options.history} is not")
        self.records.append(record)
        self._clock = now()
        return record["loss"], sizes.num_parameters(self.model.config.vocab_size)

    def _measure(self, sizes: Sizes) -> dict[str, float]:
        drawn = now()
        sizes.set_in(self.model)
        marked = now()
        loss = mean_loss(self.model, self.windows, self.options.batch_size)
        seconds = np.diff([self._clock, drawn, marked, now()], axis=0)
        tokens, length = self.windows[:, 1:].numel(), self.windows.shape[1] - 1
        flops = tokens * sizes.flops_per_token(self.model.config.vocab_size, length)
        walls = {f"{step}_seconds": float(taken) for step, taken in zip(STEPS, seconds[:, 0], strict=True)}
        cpus = {f"{step}_cpu_seconds": float(taken) for step, taken in zip(STEPS, seconds[:, 1], strict=True)}
        return {"loss": loss, "tokens": tokens, "flops": flops, **walls, **cpus}


def judge(model: GPT, winner: Sizes, heldout: torch.Tensor, batch_size: int) -> float:
    """Return a winner's loss on held-out windows, once whittle's extraction agrees on its number of parameters."""
    winner.set_in(model)
    stored = sum(parameter.numel() for parameter in extract_current_sub_network(model).parameters())
    assert stored - model.config.vocab_size * winner.hidden_size == winner.num_parameters(model.config.vocab_size)
    return mean_loss(model, heldout, batch_size)


def export(model: GPT, winner: Sizes, folder: Path) -> None:
    """Write a winner's weights with Hugging Face's names, by whittle's own conversion."""
    config = {
        "embed_dim": winner.hidden_size,
        # whittle rounds the product with the hidden size down.
        "mlp_ratio": (winner.intermediate_size + 0.5) / winner.hidden_size,
        "num_heads": winner.num_attention_heads,
        "depth": winner.num_hidden_layers,
        "n_query_groups": winner.num_key_value_heads,
        "head_size": winner.head_dim,
    }
    with TemporaryDirectory() as written:
        save_as_hf_checkpoint(model, config, written)
        weights = torch.load(Path(written) / "model.pth")
    head = weights.pop("lm_head.weight")
    assert torch.equal(head, weights["model.embed_tokens.weight"]), "the teacher ties its head"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the cost of all evaluations."""
    sums = {name: sum(record[name] for record in records) for name in records[0] if name.endswith("_seconds")}
    return {
        "evaluations": len(records),
        "tokens": sum(record["tokens"] for record in records),
        "flops": sum(record["flops"] for record in records),
        "seconds": sum(sums[f"{step}_seconds"] for step in STEPS),
        "cpu_seconds": sum(sums[f"{step}_cpu_seconds"] for step in STEPS),
        **sums,
    }


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher's checkpoint, a tied Llama")
    parser.add_argument("--name", default="SmolLM2-135M", help="litgpt's name of the teacher's configuration")
    parser.add_argument("--teacher-nats", type=float, required=True, help="its float32 loss on the held-out windows")
    parser.add_argument("--selection", type=Path, required=True, help=".npy of windows [N, T + 1] to choose by")
    parser.add_argument("--heldout", type=Path, required=True, help=".npy of windows [N, T + 1] to judge the winner by")
    parser.add_argument("--bin", type=int, nargs=2, required=True, metavar=("LOW", "HIGH"), help="parameters")
    parser.add_argument("--tokens", type=int, required=True, help="tokens that all evaluations together may read")
    parser.add_argument("--history", type=Path, required=True, help="JSON lines, one a candidate, to restart from")
    parser.add_argument("--output", type=Path, help="folder for the winner's weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4, help="windows of one forward")
    parser.add_argument("--num-threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the search's forwards")
    return parser.parse_args()


def main() -> None:
    """Search and write the line of JSON."""
    options = read_options()
    torch.set_num_threads(options.num_threads)
    selection, heldout = (torch.from_numpy(np.load(file)).long() for file in (options.selection, options.heldout))
    if options.tokens < (smallest := selection[:, 1:].numel()):
        raise ValueError(f"tokens must be at least {smallest}, those of one evaluation, got {options.tokens}")
    exact = load_teacher(options.name, options.teacher, max(selection.shape[1], heldout.shape[1]) - 1)
    teacher_nats = check_parity(exact, heldout, options.teacher_nats, options.batch_size)
    search = Search(deepcopy(exact).to(getattr(torch, options.dtype)), selection, options)
    multi_objective_search(
        search,
        search_space(exact.config),
        search_strategy="stratified_random_search",
        num_samples=options.tokens // smallest,
        seed=options.seed,
        param_bins=search,
    )
    best = min(search.records, key=lambda record: record["loss"])
    winner = Sizes(**best["sizes"])
    result = {
        "versions": {name: version(name) for name in ("whittle", "litgpt", "syne-tune", "torch")},
        **{name: getattr(options, name) for name in ("dtype", "num_threads", "batch_size", "seed", "bin")},
        "teacher_nats": teacher_nats,
        "nats": judge(exact, winner, heldout, options.batch_size),
        "selection_nats": best["loss"],
        **summary(search.records),
        "num_parameters": winner.num_parameters(exact.config.vocab_size),
        "winner": asdict(winner),
    }
    if options.output:
        export(exact, winner, options.output)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
