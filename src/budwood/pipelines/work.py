"""State of long nodes, kept where a later run finds it only if it still applies."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from budwood import __version__

logger = logging.getLogger(__name__)

FACTS = "facts.json"


def claim(workspace: Path, stage: str, facts: Mapping[str, Any]) -> Path:
    """Return the folder of the workspace that belongs to a stage with exactly these facts.

    A run with the same facts continues or reuses what it finds there; any other fact leads to another folder, and what
    stands in the old one is left alone.

    Args:
        workspace: shared by all nodes.
        stage: what is done there; names the folder for people.
        facts: everything the result depends on: parameters and the fingerprints of inputs.
    """
    text = json.dumps({"budwood": __version__} | dict(facts), sort_keys=True, default=_plain, indent=1)
    folder = workspace / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (folder / FACTS).is_file():
        logger.info("Continuing with what %s holds", folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).write_text(text)
    return folder


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"facts must be parameters, paths or plain values, got {type(value).__name__}")
