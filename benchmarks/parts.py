"""What it is worth to leave attention or the MLP out of a layer, beside leaving out whole layers.

From SmolLM2-135M parts are left out one by one until a wanted number of parameters is left: attentions and MLPs, each
time that without which the KL divergence from the teacher rises least for its parameters; or whole layers, each time
that without which it rises least. The divergence is measured on one sequence of calibration text. What is left is then
cut and corrected as exports are, with and without the refit. `LayerSpec` has no layer without attention or without an
MLP, so one head of two dimensions, or one neuron, stays in the place of a part that is left out.

Losses are of 32 sequences of validation text, in nats per token. ± is one standard error, of differences in pairs.

Usage: python benchmarks/parts.py [--parameters 71000000]; what is finished is kept in the cache folder. Half an hour on
one core.

Last line: a JSON object with `parameters` (the most that is allowed), by way the `trials`, what is `left` (attentions,
MLPs) and the `cut_parameters`, by way and correction the `nats` as pairs of mean and error, and `parts_less_layers`,
the difference of both refitted and its error.
"""

import argparse
import json
import sys
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from quickstart import CACHE_DIR, open_quickstart, refitting, windows
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from transformers import PreTrainedModel

from budwood import Compensation, Selection, SpaceSettings, Study
from budwood.arch.selection import LayerSelection
from budwood.arch.spec import LayerSpec
from budwood.evaluation.statistics import mean_and_error
from budwood.models.losses import sequence_losses
from budwood.records.files import append_json_lines, read_json_lines

ATTENTION, MLP = "attention", "mlp"
WAYS = ("parts", "layers")
NUM_SEQUENCES = 32
NUM_REFIT = 160

Part = tuple[int, str]
"""A layer, and one of `ATTENTION` and `MLP`."""
Parts = frozenset[Part]


class PartialLlama:
    """A model of Llama's decoder that can be run without some of its attentions and MLPs."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model, in which nothing is changed."""
        self.model, self.layers = model, model.model.layers
        self.parts = frozenset((layer, kind) for layer in range(len(self.layers)) for kind in (ATTENTION, MLP))

    def num_parameters(self, part: Part) -> int:
        """Return the parameters of a part, with those of the norm before it."""
        return sum(parameter.numel() for module in self._modules(part) for parameter in module.parameters())

    @torch.no_grad()
    def states(self, tokens: Tensor, parts: AbstractSet[Part]) -> list[Tensor]:
        """Return the stream [N, T, hidden size] before every layer and after the last, with some parts alone.

        Args:
            tokens: token ids [N, T].
            parts: that are run.
        """
        return self._onward([self.model.model.embed_tokens(tokens)], parts)

    @torch.no_grad()
    def logits(self, before: list[Tensor], parts: AbstractSet[Part]) -> Tensor:
        """Return logits [N, T, vocabulary], with some parts alone.

        Args:
            before: the stream before each of the first layers, at least the first.
            parts: that are run from the last of these layers on.
        """
        return self.model.lm_head(self.model.model.norm(self._onward(before, parts)[-1]))

    def _onward(self, before: list[Tensor], parts: AbstractSet[Part]) -> list[Tensor]:
        found, positions = list(before), torch.arange(before[0].shape[1])[None]
        embeddings = self.model.model.rotary_emb(before[0], positions)
        for layer in range(len(before) - 1, len(self.layers)):
            stream = found[-1]
            for kind in (ATTENTION, MLP):
                if (layer, kind) in parts:
                    norm, module = self._modules((layer, kind))
                    given = {"position_embeddings": embeddings, "attention_mask": None} if kind == ATTENTION else {}
                    made = module(norm(stream), **given)
                    stream = stream + (made[0] if kind == ATTENTION else made)
            found.append(stream)
        return found

    def _modules(self, part: Part) -> tuple[nn.Module, nn.Module]:
        """Return the norm before a part, and the part."""
        layer, kind = self.layers[part[0]], part[1]
        if kind == ATTENTION:
            return layer.input_layernorm, layer.self_attn
        return layer.post_attention_layernorm, layer.mlp


def eliminate(model: PartialLlama, tokens: Tensor, most: int, way: str, file: Path) -> tuple[Parts, int]:
    """Leave parts, or layers, out one by one, and return what is left and the number of trials.

    Args:
        model: the teacher.
        tokens: [N, T], on which the divergence from the teacher is measured.
        most: parameters that may be left.
        way: one of `WAYS`.
        file: keeps every step.
    """
    whole, left = log_softmax(model.logits(model.states(tokens, model.parts), model.parts), -1), model.parts
    size, now, trials = model.model.num_parameters(), 0.0, 0
    steps = iter(read_json_lines(file) if file.is_file() else [])
    while size > most:
        step = next(steps, None)
        if step is None:
            step = _step(model, model.states(tokens, left), whole, left, way, now)
            append_json_lines(file, [step])
        left -= {(layer, kind) for layer, kind in step["removed"]}
        size, now, trials = size - step["parameters"], step["divergence"], trials + step["trials"]
        sys.stderr.write(f"{way}: without {step['removed']} {size / 1e6:.1f}M, divergence {now:.3f}\n")
    return left, trials


def _step(
    model: PartialLlama, before: list[Tensor], whole: Tensor, left: Parts, way: str, now: float
) -> dict[str, Any]:
    """Return what is left out next."""
    tried: list[Parts] = [frozenset([part]) for part in sorted(left)]
    if way == "layers":
        tried = [frozenset([(layer, ATTENTION), (layer, MLP)]) for layer in sorted({layer for layer, _ in left})]
    found = []
    for removed in tried:
        first = min(layer for layer, _ in removed)
        logits = log_softmax(model.logits(before[: first + 1], left - removed), -1)
        divergence = float(kl_div(logits, whole, log_target=True, reduction="sum")) / whole[..., 0].numel()
        parameters = sum(map(model.num_parameters, removed))
        found.append(((divergence - now) / parameters, divergence, parameters, sorted(removed)))
    _, divergence, parameters, removed = min(found)
    return {"removed": removed, "parameters": parameters, "divergence": divergence, "trials": len(tried)}


def selection(study: Study, left: Parts, space: SpaceSettings) -> Selection:
    """Return the cut that keeps some parts whole, and as little as a layer may have of the others beside them."""
    architecture, layers = study.teacher.architecture, []
    for rank, layer in enumerate(study.ordered(space).ranking):
        attends, computes = ((layer, kind) in left for kind in (ATTENTION, MLP))
        if attends or computes:
            spec = architecture.layers[layer]
            kept = LayerSpec.of(
                *((spec.num_key_value_heads, spec.heads_per_group, spec.head_dim) if attends else (1, 1, 2)),
                spec.intermediate_size if computes else 1,
            )
            layers.append(LayerSelection.prefix(rank, kept))
    return Selection(hidden=range(architecture.hidden_size), layers=tuple(layers))


CORRECTIONS = {
    "not corrected": (SpaceSettings(layerwise=True), 1),
    "corrected": (SpaceSettings(layerwise=True, compensation=Compensation()), 1),
    "refitted": (SpaceSettings(layerwise=True, compensation=Compensation(refit=True, refit_ridge=0.3)), NUM_REFIT),
}
"""How what is left is cut, and the sequences for the refit."""


class Bench:
    """The teacher, and what is cut out of it."""

    def __init__(self, cache_dir: Path, most: int) -> None:
        """Open the study."""
        self.study, self.most = open_quickstart(cache_dir), most
        self.folder = cache_dir / "parts"
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def model(self) -> PartialLlama:
        """The teacher."""
        return PartialLlama(self.study.teacher.load_model(torch.float32))

    def left(self, way: str) -> tuple[Parts, int]:
        """Return what is left, and the number of trials."""
        tokens = windows(self.study, "calibration", 1)[:, :-1]
        return eliminate(self.model, tokens, self.most, way, self.folder / f"{way}.jsonl")

    def cut(self, left: Parts, correction: str) -> tuple[int, list[float]]:
        """Return the parameters of a cut, and its loss of every sequence."""
        space, sequences = CORRECTIONS[correction]
        study = refitting(self.study, sequences)
        cut = study.extract(selection(study, left, space), space)
        model = cut.checkpoint.load_model(torch.float32)
        return cut.winner.num_parameters, sequence_losses(model, windows(study, "validation", NUM_SEQUENCES)).tolist()


def main() -> None:
    """Leave parts and layers out, cut, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    parser.add_argument("--parameters", type=int, default=71_000_000, help="that may be left")
    arguments = parser.parse_args()
    bench = Bench(arguments.cache_dir, arguments.parameters)
    found: dict[str, Any] = {"parameters": arguments.parameters, "trials": {}, "left": {}, "cut_parameters": {}}
    found["nats"] = {way: {} for way in WAYS}
    refitted = {}
    for way in WAYS:
        left, found["trials"][way] = bench.left(way)
        found["left"][way] = [sum(kind == each for _, kind in left) for each in (ATTENTION, MLP)]
        for correction in CORRECTIONS:
            found["cut_parameters"][way], refitted[way] = bench.cut(left, correction)
            found["nats"][way][correction] = rounded(refitted[way])
            sys.stderr.write(f"{way}, {correction}: {found['nats'][way][correction]}\n")
    found["parts_less_layers"] = rounded([one - other for one, other in zip(*refitted.values(), strict=True)])
    sys.stdout.write(json.dumps(found) + "\n")


def rounded(values: list[float]) -> list[float]:
    """Return mean and standard error."""
    return [round(value, 4) for value in mean_and_error(values)]


if __name__ == "__main__":
    main()
