"""What torch-pruning, optipfair and mergekit cut out of a pretrained Llama to reach a number of parameters.

Each tool does what its own documentation recommends, on one calibration text:

* `torch-pruning` 1.6.1: its example for language models prunes hidden size, neurons and heads by one ratio, those of
  the least norm first. For more, the example's page points to gradients, which the tool has too. Both are tried.
* `optipfair` 0.4.2: its pipeline leaves out the layers that change the stream least, and then neurons of the others, by
  peak-to-peak magnitude and activations. The share of either is left to the user: up to four are tried, from hardly any
  neurons left out to hardly any left.
* `mergekit` 0.1.5: `passthrough` copies all layers but a block. Of all blocks of one length that one goes between whose
  ends the angle is least (Gromov et al., 2024). If no number of layers lies in the bin, the nearest is taken.

Of what is tried, the lowest loss on the selection text is kept. `flops` are those of all matrix products until then, as
torch counts them. The script runs in an environment of `peers.CUT_INSTALLS`, imports nothing of budwood, writes the
weights, and closes its output with one line of JSON, which has a `reason` where the tool gives up.
"""

import argparse
import gc
import json
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

BATCH = 2
"""Sequences of one pass."""
NUM_BISECTIONS = 7
"""Of torch-pruning's ratio."""
NUM_DEPTHS = 4
"""Numbers of layers that optipfair is tried with."""
FEWEST_NEURONS = 0.05
"""Share that it leaves at least."""


@dataclass(frozen=True)
class Task:
    """What is asked of a tool."""

    teacher: Path
    calibration: Tensor
    """[N, T + 1]"""
    selection: Tensor
    """[N, T + 1]"""
    low: int
    high: int

    @property
    def center(self) -> float:
        """The middle of the bin."""
        return (self.low + self.high) / 2

    def load(self, folder: Path | None = None, **settings: Any) -> PreTrainedModel:
        """Return the teacher, or what a tool has written."""
        model = AutoModelForCausalLM.from_pretrained(folder or self.teacher, torch_dtype=torch.float32, **settings)
        return model.eval()

    def loss(self, model: PreTrainedModel) -> float:
        """Return nats per token of the selection text."""
        with torch.inference_mode():
            parts = [float(mean_loss(model, batch)) * len(batch) for batch in self.selection.split(BATCH)]
        return sum(parts) / len(self.selection)


@dataclass(frozen=True)
class Cut:
    """What a tool has made."""

    model: PreTrainedModel
    how: str


Tool = Callable[[Task], Iterator[Cut]]


def mean_loss(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Return the loss of windows [B, T + 1]."""
    logits = model(windows[:, :-1]).logits.float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return all tensors, a tied table once."""
    own = model.state_dict()
    if torch.equal(own["lm_head.weight"], own["model.embed_tokens.weight"]):
        del own["lm_head.weight"]
    return {name: tensor.detach().contiguous() for name, tensor in own.items() if not name.endswith("inv_freq")}


def count(model: PreTrainedModel) -> int:
    """Return the number of parameters."""
    return sum(tensor.numel() for tensor in weights(model).values())


def sizes(model: PreTrainedModel) -> dict[str, int]:
    """Return the sizes of all layers, as the tensors have them."""
    (layer, *others), own = model.model.layers, model.config
    attention, mlp = layer.self_attn, layer.mlp
    found = {
        "hidden_size": attention.q_proj.in_features,
        "intermediate_size": mlp.gate_proj.out_features,
        "num_hidden_layers": 1 + len(others),
        "num_attention_heads": attention.q_proj.out_features // own.head_dim,
        "num_key_value_heads": attention.k_proj.out_features // own.head_dim,
        "head_dim": own.head_dim,
    }
    shapes = {tuple(tuple(weight.shape) for weight in each.parameters()) for each in model.model.layers}
    assert len(shapes) == 1, f"layers differ: {shapes}"
    return found


def torch_pruning(task: Task) -> Iterator[Cut]:
    """Yield what norms and what gradients leave."""
    import torch_pruning as tp  # noqa: PLC0415 - every environment has one of the tools

    # The release of transformers that the example was run with reads the base of the rotary embedding here.
    config = json.loads((task.teacher / "config.json").read_text(encoding="utf-8"))
    teacher = task.load(rope_theta=config["rope_parameters"]["rope_theta"])
    # The example's `GroupNormImportance` is gone in this release; `GroupMagnitudeImportance` has its arguments.
    norms = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean")
    low, high = 0.0, 1.0
    for _ in range(NUM_BISECTIONS):
        ratio = (low + high) / 2
        pruned = prune_widths(deepcopy(teacher), norms, ratio)
        low, high = (ratio, high) if count(pruned) > task.center else (low, ratio)
        gc.collect()  # the tool's graphs are cycles, each of which keeps a copy of the teacher
    yield Cut(pruned, f"ratio {ratio:.3f} of all widths, by norms")
    for batch in task.calibration.split(BATCH):
        mean_loss(teacher, batch).backward()
    pruned = prune_widths(teacher, tp.importance.GroupTaylorImportance(), ratio)
    yield Cut(pruned, f"ratio {ratio:.3f} of all widths, by gradients")


def prune_widths(model: PreTrainedModel, importance: Any, ratio: float) -> PreTrainedModel:
    """Prune a model in place as torch-pruning's example does."""
    import torch_pruning as tp  # noqa: PLC0415 - every environment has one of the tools

    heads: dict[Any, int] = {}
    for layer in model.model.layers:
        heads[layer.self_attn.q_proj] = model.config.num_attention_heads
        heads[layer.self_attn.k_proj] = heads[layer.self_attn.v_proj] = model.config.num_key_value_heads
    pruner = tp.pruner.MetaPruner(
        model,
        example_inputs=torch.arange(8)[None],
        importance=importance,
        pruning_ratio=ratio,
        ignored_layers=[model.lm_head],
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=ratio,
        round_to=4,
        output_transform=lambda output: output.logits,
    )
    for group in pruner.step(interactive=True):
        group.prune()
    own = sizes(model)
    for layer in model.model.layers:
        layer.self_attn.num_heads = own["num_attention_heads"]
        layer.self_attn.num_key_value_groups = own["num_attention_heads"] // own["num_key_value_heads"]
        layer.self_attn.hidden_size = own["num_attention_heads"] * own["head_dim"]
    return model


def optipfair(task: Task) -> Iterator[Cut]:
    """Yield what is left with several numbers of layers, the bin filled by neurons."""
    import optipfair as opf  # noqa: PLC0415 - every environment has one of the tools

    texts = list(task.calibration[:, :-1].split(BATCH))
    scores = opf.analyze_layer_importance(task.load(), texts, show_progress=False)
    least = sorted(scores, key=scores.__getitem__)
    table, layer, neurons = layer_counts(task.load())
    room = task.center - table
    most = min(len(least), room / (layer - neurons * (1 - FEWEST_NEURONS)))
    for depth in sorted({int(each) for each in np.geomspace(math.ceil(room / layer), most, NUM_DEPTHS).round(6)}):
        model = task.load()
        removed = sorted(least[: len(least) - depth])
        if removed:
            model = opf.prune_model(model, pruning_type="DEPTH", layer_indices=removed, show_progress=False)
        percentage = 100 * (table + depth * layer - task.center) / (depth * neurons)
        if percentage / 100 * model.config.intermediate_size >= 1:  # it refuses to leave out less than one
            model = opf.prune_model(
                model,
                pruning_percentage=percentage,
                neuron_selection_method="MAW",
                dataloader=[{"input_ids": text} for text in texts],
                show_progress=False,
            )
        yield Cut(model, f"{depth} of {len(least)} layers, {max(0.0, percentage):.0f}% of neurons left out")


def layer_counts(teacher: PreTrainedModel) -> tuple[int, int, int]:
    """Return the parameters outside the layers, of a layer, and of its neurons."""
    layer = teacher.model.layers[0]
    whole, neurons = (sum(each.numel() for each in part.parameters()) for part in (layer, layer.mlp))
    return count(teacher) - whole * len(teacher.model.layers), whole, neurons


def mergekit(task: Task) -> Iterator[Cut]:
    """Yield the teacher without the block whose ends are closest."""
    from mergekit.config import MergeConfiguration  # noqa: PLC0415 - every environment has one of the tools
    from mergekit.merge import MergeOptions, run_merge  # noqa: PLC0415 - the same

    teacher = task.load()
    depth = len(teacher.model.layers)
    table, layer, _ = layer_counts(teacher)
    kept = min(range(1, depth), key=lambda number: abs(table + number * layer - task.center))
    length, angles = depth - kept, block_angles(teacher, task.calibration[:, :-1], depth - kept)
    first = min(range(len(angles)), key=angles.__getitem__)
    slices = [
        {"sources": [{"model": str(task.teacher), "layer_range": list(ends)}]}
        for ends in ((0, first), (first + length, depth))
        if ends[0] < ends[1]
    ]
    settings = {"merge_method": "passthrough", "dtype": "float32", "slices": slices}
    with TemporaryDirectory() as folder:
        run_merge(MergeConfiguration.model_validate(settings), folder, MergeOptions(quiet=True))
        yield Cut(task.load(Path(folder)), f"layers {first} to {first + length - 1} of {depth} left out")


@torch.inference_mode()
def block_angles(teacher: PreTrainedModel, texts: Tensor, length: int) -> list[float]:
    """Return the mean angle between the ends of every block of some layers, over pi."""
    sums = torch.zeros(len(teacher.model.layers) + 1 - length)
    streams: list[Tensor] = []
    hooks = [
        each.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])) for each in teacher.model.layers
    ]
    hooks.append(teacher.model.norm.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])))
    for batch in texts.split(BATCH):
        streams.clear()
        teacher.model(batch)
        for place in range(len(sums)):
            cosine = torch.nn.functional.cosine_similarity(streams[place], streams[place + length], dim=-1)
            sums[place] += (cosine.clamp(-1, 1).arccos() / torch.pi).mean() * len(batch) / len(texts)
    for hook in hooks:
        hook.remove()
    return sums.tolist()


TOOLS: dict[str, Tool] = {"torch-pruning": torch_pruning, "optipfair": optipfair, "mergekit": mergekit}


def best_cut(task: Task, tool: Tool, output: Path) -> dict[str, Any]:
    """Write the best of what a tool makes, and return what it is."""
    best: dict[str, Any] = {}
    tried: dict[str, float] = {}
    for cut in tool(task):
        nats = tried[cut.how] = task.loss(cut.model)
        sys.stderr.write(f"{cut.how}: {count(cut.model)} parameters, {nats:.3f} nats\n")
        if not best or nats < best["selection_nats"]:
            best = {"how": cut.how, "num_parameters": count(cut.model), "selection_nats": nats}
            best["sizes"] = sizes(cut.model)
            save_file(weights(cut.model), output / "model.safetensors", metadata={"format": "pt"})
    return best | {"tried": tried}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tool", choices=TOOLS, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher's checkpoint, a tied Llama")
    parser.add_argument("--calibration", type=Path, required=True, help=".npy of [N, T + 1] token ids")
    parser.add_argument("--selection", type=Path, required=True, help=".npy of [N, T + 1] token ids to choose by")
    parser.add_argument("--bin", type=int, nargs=2, required=True, metavar=("LOW", "HIGH"), help="parameters")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--num-threads", type=int, default=1, help="threads of torch")
    return parser.parse_args()


def main() -> None:
    """Cut and write the line of JSON."""
    options = read_options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.num_threads)
    options.output.mkdir(parents=True, exist_ok=True)
    calibration, selection = (
        torch.from_numpy(np.load(each)).long() for each in (options.calibration, options.selection)
    )
    task, began = Task(options.teacher, calibration, selection, *options.bin), time.perf_counter()
    result: dict[str, Any] = {"versions": {name: version(name) for name in (options.tool, "transformers", "torch")}}
    try:
        with FlopCounterMode(display=False) as counter:
            result |= best_cut(task, TOOLS[options.tool], options.output)
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is the finding
        traceback.print_exc()
        result["reason"] = f"{type(error).__name__}: {error}"
    result |= {"flops": float(counter.get_total_flops()), "seconds": time.perf_counter() - began}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
