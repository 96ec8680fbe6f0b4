"""Names that users give, and the names that budwood gives: arms, and the name for none of them."""

import re
from collections.abc import Iterable
from typing import NamedTuple

BASELINE = "random_init"
"""The arm that every saving is measured against: the sub-network's architecture from random weights."""
ARMS = (BASELINE, "subnet_init", "distilled")
REFERENCE = "reference_init"
"""The arm of a bin that names a reference architecture: that architecture from random weights."""
CONTINUED = "subnet_init"
"""The arm that is trained as probes are, and takes over their steps where the schedule allows it."""
FROM_SUBNET = ("subnet_init", "distilled")
"""The arms that begin with the weights of the sub-network: what people take home, with a card and a certificate."""
SHARED = ""
"""The bin, space or arm of a cost that no single variant or arm has caused."""
SELECTED = "selected"
"""The space of a bin that probes will choose, wherever a pipeline names a space."""

_LONGEST = 64
"""Characters. File systems take 255 in a name, MLflow 250 in a key, which has the names of a bin and a space."""
_NAME = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_RESERVED = {SELECTED, "ablations", "shared", *ARMS, REFERENCE}


class Variant(NamedTuple):
    """A bin and a space."""

    bin: str
    space: str

    def __str__(self) -> str:
        """Return the name under which a report shows it."""
        return " · ".join(part for part in self if part != SHARED) or "shared"


def require_name(kind: str, name: str) -> str:
    """Return a name of a bin, a space, a source, or of something that an ablation compares.

    Such names become parts of dataset names, folders and MLflow keys, so one rule is for all of them.

    Args:
        kind: what is named, as the message calls it, such as `bins`.
        name: the name.

    Raises:
        ValueError: it has anything but letters, digits, and single `-` or `_` between them, is too long, or is taken.
    """
    if len(name) > _LONGEST:
        raise ValueError(f"{kind}: the name {name!r} has {len(name)} characters; allowed are {_LONGEST}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{kind}: the name {name!r} must be made of letters and digits, with single `-` or `_` between them"
        )
    if name.lower() in _RESERVED:  # some file systems ignore case
        raise ValueError(f"{kind}: the name {name!r} is taken by budwood itself; choose another")
    return name


def require_names(kind: str, names: Iterable[str]) -> None:
    """Check several names; see `require_name`.

    Raises:
        ValueError: one is not allowed, or two differ in case alone, which some file systems ignore.
    """
    seen: dict[str, str] = {}
    for name in names:
        require_name(kind, name)
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{kind}: the names {other!r} and {name!r} differ in case alone; choose another")


def run_name(arm: str, first_seed: int, seed: int) -> str:
    """Return the name of a run of an arm: the arm's own for the first seed, `<arm>_seed_<number>` for the others."""
    return arm if seed == first_seed else f"{arm}_seed_{seed}"
