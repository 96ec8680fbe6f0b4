"""What all stages share: from the inputs that a stage declares follow its fingerprint, its folder and its reuse."""

import hashlib
import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic

from pydantic import BaseModel
from torch import Tensor

from budwood.models.checkpoint import Checkpoint
from budwood.records.files import write_atomically
from budwood.records.locks import holding
from budwood.records.strict import HOW, facts
from budwood.records.tracking import Track
from budwood.study.results import PARTS, Result, restore, save
from budwood.study.source import code_hash

logger = logging.getLogger(__name__)

FACTS, USED = "facts.json", "used"
NOT_DECIDING = {HOW: True}
"""Metadata of a field, as in `field(metadata=NOT_DECIDING)`, that decides how a stage works and never what results."""


def no_tracking(metrics: Mapping[str, float], step: int) -> None:
    """Report metrics nowhere."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC, Generic[Result]):
    """One step of a study; its fields are its inputs.

    A stage that is asked for again answers from its folder only where all inputs that decide its result are the same,
    and the source that makes it too. One that was interrupted continues from what is in its folder.
    """

    name: ClassVar[str]
    """Begins the name of its folder."""
    answers: ClassVar[bool] = True
    """Whether a finished folder answers by itself; else `run` decides what of it still applies."""

    @abstractmethod
    def run(self, work: "Work") -> Result:
        """Do the work, or what is left of it, and return the result."""

    def replay(self, work: "Work") -> None:
        """Report what `run` reported, where its result was found; nothing where it reports nothing."""

    def report(self, result: Result, work: "Work") -> None:
        """Report metrics of a result, whether it is new or was found; nothing where work reports while it runs."""

    def facts(self) -> dict[str, Any]:
        """Return what decides the result, in JSON form."""
        return {"stage": self.name, "code": self.code()} | _of_fields(self)

    @classmethod
    def code(cls) -> str:
        """Return the hash of the source that the stage runs."""
        return code_hash(cls.__module__)


def identity(value: object) -> Any:
    """Return in JSON form what identifies a value: of heavy things their fingerprint.

    Raises:
        TypeError: nothing is known that identifies the value.
    """
    for kind, identify in _IDENTITIES:
        if kind(value):
            return identify(value)
    raise TypeError(f"a stage cannot depend on a {type(value).__name__}: it has no fingerprint")


def _of_fields(value: Any) -> dict[str, Any]:
    return {each.name: identity(getattr(value, each.name)) for each in fields(value) if HOW not in each.metadata}


def _checkpoints_in(value: object) -> Iterator[Checkpoint]:
    """All models that a stage works with."""
    if isinstance(value, Checkpoint):
        yield value
    elif is_dataclass(value):
        for each in fields(value):
            yield from _checkpoints_in(getattr(value, each.name))


def _of_tensor(value: Tensor) -> str:
    return hashlib.sha256(value.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]


_IDENTITIES: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (lambda value: value is None or isinstance(value, str | int | float | bool), lambda value: value),
    (lambda value: isinstance(value, BaseModel), facts),
    (lambda value: hasattr(value, "fingerprint"), lambda value: value.fingerprint),
    (lambda value: hasattr(value, "to_dict"), lambda value: value.to_dict()),
    (lambda value: isinstance(value, Tensor), _of_tensor),
    (lambda value: isinstance(value, Mapping), lambda value: {str(key): identity(value[key]) for key in value}),
    (lambda value: isinstance(value, list | tuple), lambda value: [identity(part) for part in value]),
    (is_dataclass, _of_fields),
)
"""What identifies values of a kind; the first kind that fits is taken."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where a stage works, and where it reports."""

    folder: Path
    """Belongs to a stage with these facts alone."""
    workspace: "Workspace"
    track: Track


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of all stages of a study."""

    folder: Path
    track: Track = no_tracking
    environment: Mapping[str, str] | None = None
    """Variables by which other processes report to the same run."""

    def finish(self, stage: Stage[Result]) -> Result:
        """Return the result of a stage: from its folder where it is there, else by doing what is left of the work.

        Raises:
            FolderInUseError: another process is doing the same work.
            ValueError: the result in the folder is damaged, or a model was replaced while the stage worked with it.
        """
        folder = self.claim(stage.name, stage.facts())
        with holding(folder, stage.name):
            work = Work(folder=folder, workspace=self, track=self.track)
            if stage.answers and (folder / PARTS).is_file():
                logger.info("Reusing %s", folder)
                stage.replay(work)
                result: Result = restore(stage.run.__annotations__["return"], folder)
            else:
                result = stage.run(work)
                for checkpoint in _checkpoints_in(stage):
                    checkpoint.check_unchanged()
                save(result, folder)
            stage.report(result, work)
            return result

    def claim(self, name: str, deciding: Mapping[str, Any]) -> Path:
        """Return the folder for work with exactly these facts, and note that it is in use."""
        text = json.dumps(deciding, sort_keys=True, indent=1)
        folder = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not (folder / FACTS).is_file():
            write_atomically(folder / FACTS, text, shared=True)
        write_atomically(folder / USED, datetime.now(UTC).isoformat(), shared=True)
        return folder


@dataclass(frozen=True, slots=True)
class Unused:
    """A folder of a workspace that no recent study has used."""

    folder: Path
    last_used: datetime
    num_bytes: int
    """That its removal frees: what is also linked elsewhere stays."""


def unused_since(workspace: Path, since: datetime) -> list[Unused]:
    """Return the folders of a workspace that were last used before a time, the largest first."""
    found = []
    for folder in sorted(file.parent for file in workspace.glob(f"*/{USED}")):
        last = datetime.fromisoformat((folder / USED).read_text(encoding="utf-8"))
        if last < since:
            files = [file.stat() for file in folder.rglob("*") if file.is_file()]
            found.append(Unused(folder, last, sum(each.st_size for each in files if each.st_nlink == 1)))
    return sorted(found, key=lambda each: -each.num_bytes)


def remove(unused: Unused) -> None:
    """Remove a folder, unless a process is working in it.

    Raises:
        FolderInUseError: a process is.
    """
    with holding(unused.folder, "its removal"):
        shutil.rmtree(unused.folder)
