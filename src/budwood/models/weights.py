"""The weight files of a checkpoint: exactly those that transformers reads."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from budwood.arch.config import HFConfig, supported_family

SINGLE = "model.safetensors"
WEIGHT_INDEX = "model.safetensors.index.json"
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Precisions that models compute in, by what headers call them."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: the file is missing, damaged, or has something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is missing, empty or damaged ({error}): fetch or write it again") from error
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004 - the file is wrong, not the caller
            f"{file} must be a JSON object, got {type(content).__name__}"
        )
    return content


def weight_files(folder: Path, config: HFConfig) -> tuple[Path, ...]:
    """Return the files that transformers reads a folder's weights from, sorted, the index among them.

    They are those of `config.json`'s `transformers_weights`, else `model.safetensors`, else the index. No others are
    read.

    Raises:
        ValueError: there are none, only pickles, or the index is damaged or leads out of the folder.
    """
    for name in (config.get("transformers_weights"), SINGLE, WEIGHT_INDEX):
        if name and (folder / name).is_file():
            return _listed(folder, name)
    strays = sorted(file.name for file in folder.glob("*.safetensors"))
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ValueError(f"{folder} has only pickled weights ({', '.join(pickles)}), {_conversion(folder)}")
    if strays:
        raise ValueError(
            f"{folder} must have {SINGLE} or {WEIGHT_INDEX}; transformers does not read {', '.join(strays)}. Rename a "
            f"single file to {SINGLE}, or write the index that belongs to several"
        )
    raise ValueError(f"{folder} must have safetensors weights ({SINGLE} or {WEIGHT_INDEX}), found none")


def tensor_files(folder: Path, config: HFConfig) -> dict[str, Path]:
    """Return the file of every tensor that transformers finds in a folder.

    Raises:
        ValueError: see `weight_files`; or a file is missing or damaged.
    """
    return {name: file for file, tensors in _opened(folder, config) for name in tensors.keys()}  # noqa: SIM118


def _opened(folder: Path, config: HFConfig) -> Iterator[tuple[Path, Any]]:
    """Yield every file with tensors, opened."""
    for file in weight_files(folder, config):
        if file.suffix == ".safetensors":
            with open_tensors(file) as tensors:
                yield file, tensors


def check_shapes(folder: Path, config: HFConfig, model: PreTrainedModel) -> None:
    """Check by the files' headers that a folder has every tensor of the model of its config, in its shape.

    Raises:
        ValueError: it does not; or see `tensor_files`.
    """
    family, shapes = supported_family(config), dict[str, tuple[int, ...]]()
    for _, tensors in _opened(folder, config):
        shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    for name, parameter in model.named_parameters():
        stored = name if name in shapes else family.stored_names.get(name, name)
        if stored not in shapes:
            raise ValueError(f"{folder} has no tensor {name!r}, which a {family.model_type} model needs")
        if shapes[stored] != parameter.shape:
            shape = tuple(parameter.shape)
            raise ValueError(f"{folder}: tensor {stored!r} is {shapes[stored]}, config.json says {shape}")


def same_values(folder: Path, config: HFConfig, names: tuple[str, str]) -> bool:
    """Return whether two tensors of a folder are equal, as transformers asks before it ties them."""
    files = tensor_files(folder, config)
    return torch.equal(*(read_tensor(files[name], name) for name in names))


def widest_dtype(files: Mapping[str, Path], names: Collection[str]) -> torch.dtype:
    """Return the widest precision of some tensors by the headers of their files; float32 where none is one of `DTYPES`.

    Args:
        files: of every tensor, by its name.
        names: of the tensors.

    Raises:
        ValueError: a file is missing or damaged.
    """
    found: set[str] = set()
    for file in {files[name] for name in names}:
        with open_tensors(file) as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in names if files[name] == file}
    dtypes = [dtype for name, dtype in DTYPES.items() if name in found]
    return reduce(torch.promote_types, dtypes) if dtypes else torch.float32


def read_tensor(file: Path, name: str) -> Tensor:
    """Return a tensor of a safetensors file, in the shape that it has there, such as [V, E].

    Raises:
        ValueError: the file is missing or damaged.
    """
    with open_tensors(file) as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    return tensor


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """Open a safetensors file; its tensors are read when they are asked for.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged, truncated or missing ({error}): fetch it again") from error


def _listed(folder: Path, name: str) -> tuple[Path, ...]:
    names = _named(folder, name)
    outside = [file for file in names if Path(file).is_absolute() or ".." in Path(file).parts]
    if outside:
        raise ValueError(f"{folder / name} leads out of its folder ({', '.join(outside)}): put the files beside it")
    pickles = [file for file in names if not file.endswith((".safetensors", ".index.json"))]
    if pickles:
        raise ValueError(f"{folder} names pickled weights ({', '.join(pickles)}), {_conversion(folder)}")
    return tuple(folder / file for file in names)


def _named(folder: Path, name: str) -> list[str]:
    """Return the names of a weight file, or of an index and the files that it names."""
    if not name.endswith(".index.json"):
        return [name]
    listed = read_object(folder / name).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise ValueError(f"{folder / name} must name the file of every tensor in `weight_map`")
    return sorted({*listed.values(), name})


def _conversion(folder: Path) -> str:
    return (
        "which can run code when read; if you trust them, convert them: "
        'python -c "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safe'); "
        f"T.from_pretrained('{folder}').save_pretrained('{folder}-safe')\""
    )
