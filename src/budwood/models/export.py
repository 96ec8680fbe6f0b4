"""Write a child as a folder that other tools open: weights, code where needed, tokenizer."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from budwood.models.checkpoint import build_empty, load_generation, load_tokenizer, save_checkpoint
from budwood.models.stream import hollow
from budwood.models.tensors import State
from budwood.models.weights import SINGLE, WEIGHT_INDEX, open_tensors
from budwood.records.files import write_folder_atomically

CARD = "README.md"
CERTIFICATE = "certificate.json"
WEIGHT_SHARD_BYTES = 2**29
"""A shard is written as soon as it has as many."""


def write_checkpoint(model: PreTrainedModel, teacher_folder: Path, target: Path) -> Path:
    """Write a model with its teacher's tokenizer and generation settings, atomically, and return the folder."""
    if (generation := load_generation(teacher_folder)) is not None:
        model.generation_config = generation
    return save_checkpoint(model, load_tokenizer(teacher_folder), target)


@contextmanager
def writing_parts(
    config: PretrainedConfig, decoder: str, teacher_folder: Path, target: Path
) -> Iterator[Callable[[Mapping[str, Tensor]], State]]:
    """Yield what takes the parameters of a model part by part; at the end the folder is that of `write_checkpoint`.

    It returns the parameters as they are written, for no other copy of them to be kept.
    """
    with write_folder_atomically(target) as folder:
        shards = _Shards(folder, config, decoder, load_generation(teacher_folder))
        yield shards.add
        shards.finish()
        load_tokenizer(teacher_folder).save_pretrained(folder)


@dataclass(slots=True)
class _Shards:
    """The files of a model that are written one after the other."""

    folder: Path
    config: PretrainedConfig
    decoder: str
    generation: GenerationConfig | None
    _waiting: dict[str, Tensor] = field(default_factory=dict)
    _written: list[Path] = field(default_factory=list)

    def add(self, part: Mapping[str, Tensor]) -> State:
        """Take parameters, write a shard where there are enough for one, and return them as they are written."""
        own = {
            name: weight.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, weight in part.items()
        }
        self._waiting |= own
        if sum(weight.nbytes for weight in self._waiting.values()) >= WEIGHT_SHARD_BYTES:
            self._write()
        return own

    def finish(self) -> None:
        """Write what is left, and name the shards as transformers does."""
        if self._waiting:
            self._write()
        shards = [place / SINGLE for place in self._written]
        total, places = len(shards), dict[str, str]()
        for number, shard in enumerate(shards, start=1):
            name = SINGLE if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"
            with open_tensors(shard) as tensors:
                places |= dict.fromkeys(tensors.keys(), name)
            shard.rename(self.folder / name)
        for file in self._written[0].iterdir():
            file.rename(self.folder / file.name)
        for place in self._written:
            shutil.rmtree(place)
        if total > 1:
            size = sum((self.folder / name).stat().st_size for name in set(places.values()))
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            (self.folder / WEIGHT_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write(self) -> None:
        dtype = next(iter(self._waiting.values())).dtype
        model = hollow(build_empty(self.config), self.decoder, torch.device("cpu"), dtype)
        if self.generation is not None:
            model.generation_config = self.generation
        self._written.append(self.folder / f"shard-{len(self._written)}")
        model.save_pretrained(self._written[-1], state_dict=self._waiting)
        self._waiting = {}
