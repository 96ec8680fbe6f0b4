"""A file that comes in parts, as where a package index limits sizes: joined once, in the user's cache."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from budwood.records.files import write_file_atomically
from budwood.records.hashes import MEMORY, hash_file, hash_files
from budwood.records.paths import resolve_path
from budwood.records.strict import naming


def cache_folder() -> Path:
    """Return the folder of budwood in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "budwood"


def join_parts(places: Sequence[str], sha256: str, root: Path) -> Path:
    """Return the GGUF file that parts make up, from the user's cache where it was joined before.

    Raises:
        ValueError: a part is missing, or together they are another file.
    """
    name = f"{Path(places[0]).name.partition('.gguf')[0]}.gguf"
    target = cache_folder() / "joined" / sha256[:16] / name
    if target.is_file() and hash_files({name: target}, target.with_name(MEMORY))[name] == sha256:
        return target
    parts = [_part(place, root) for place in places]
    with write_file_atomically(target, shared=True) as partial:
        with partial.open("wb") as whole:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, 2**20)
        if (found := hash_file(partial)) != sha256:
            raise ValueError(
                f"teacher.parts: joined in this order they have the SHA-256 {found} and not teacher.sha256={sha256}; "
                "correct their order, or fetch them again"
            )
    return target


def _part(place: str, root: Path) -> Path:
    with naming("teacher.parts"):
        path = Path(resolve_path(place, root))
    if not path.is_file():
        raise ValueError(f"teacher.parts: no file at {path}")
    return path
