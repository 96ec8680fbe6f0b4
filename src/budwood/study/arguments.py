"""Arguments of the Python library, refused by their names."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeGuard

from budwood.models.checkpoint import Checkpoint
from budwood.records.names import require_names
from budwood.search.settings import SearchSettings
from budwood.study.settings import BinSettings
from budwood.subnet.settings import SpaceSettings
from budwood.training.settings import Schedule


def require_kind(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuse an argument of another type.

    Raises:
        TypeError: the message has the argument, its value, and what is wanted.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name}={value!r} must be {wanted}")


def require_class(name: str, value: object, kind: type) -> None:
    """Refuse an argument of another class, such as settings that are a dictionary; see `require_kind`."""
    require_kind(name, value, kind, f"{kind.__name__}(...)")


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse an argument that is none of its choices.

    Raises:
        ValueError: the message has the argument, its value, and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}")


def named_bins(bins: Mapping[str, float | BinSettings]) -> dict[str, BinSettings]:
    """Return bins by name: of a share of the teacher's parameters, of a number of parameters, or as given.

    Raises:
        TypeError: they are no mapping, or one of them is no number.
        ValueError: a name or a number is not allowed.
    """
    require_kind("bins", bins, Mapping, "sizes by name, such as {'half': 0.5}")
    require_names("bins", bins)
    return {name: _bin(f"bins[{name!r}]", size) for name, size in bins.items()}


def searched_bins(
    bins: Mapping[str, float | BinSettings], space: SpaceSettings, settings: SearchSettings, schedule: Schedule
) -> dict[str, BinSettings]:
    """Return bins by name as `named_bins` does, once what they are searched with is of the right classes too."""
    require_class("space", space, SpaceSettings)
    require_class("settings", settings, SearchSettings)
    require_class("schedule", schedule, Schedule)
    return named_bins(bins)


def _bin(name: str, size: object) -> BinSettings:
    if isinstance(size, BinSettings):
        return size
    wanted = f"{name}={size!r} must be a share of the teacher's parameters up to 1, their whole number, or BinSettings"
    if not _is_number(size):
        raise TypeError(wanted)
    if not 0 < size < float("inf") or (size > 1 and size % 1):
        raise ValueError(wanted)
    return BinSettings(fraction=size) if size <= 1 else BinSettings(center=int(size))


def _is_number(size: object) -> TypeGuard[float]:
    return isinstance(size, int | float) and not isinstance(size, bool)


def as_checkpoint(name: str, given: Checkpoint | str | Path) -> Checkpoint:
    """Return a checkpoint, opened where only its folder is given.

    Raises:
        TypeError: it is neither.
        ValueError: there is no checkpoint in the folder.
    """
    if isinstance(given, Checkpoint):
        return given
    require_kind(name, given, (str, Path), "a Checkpoint or the folder of one")
    return Checkpoint.open(Path(given).expanduser().resolve())
