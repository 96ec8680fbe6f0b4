"""What a part of a study reads from the parts before it, looked at before the first node."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from budwood.records.files import read_json, write_json
from budwood.records.runs import WORKSPACE
from budwood.study.stage import identity

logger = logging.getLogger(__name__)

_SHOWN = 3
"""Datasets that a message names."""
_DECIDING = re.compile(r"params:((?:teacher|corpus|search|bins\..+|spaces\..+))")
"""Parameters whose change makes stale all that was made with them. Other groups also have values for other nodes."""
_NOTES = "made_with.json"


class InputsHook:
    """Refuses a part of a study that would fail later for want of an input, and warns where one is stale.

    Stages compare all their inputs before they reuse a result. But what no node of a run makes is read as it is.
    """

    def __init__(self) -> None:
        """Begin without a run."""
        self._notes = Path()
        self._now: dict[str, str] = {}
        self._made_with: dict[str, dict[str, str]] = {}

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Read where the environment keeps its data."""
        data = context.config_loader["globals"]["data"]
        self._notes = Path(context.project_path) / data / WORKSPACE / _NOTES

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look at every input.

        Raises:
            ValueError: one is not there; the message has the pipelines that make it.
        """
        deciding = [found for name in catalog.keys() if (found := _DECIDING.fullmatch(name))]  # noqa: SIM118 - no dict
        self._now = {found[1]: _digest(catalog.load(found[0])) for found in deciding}
        self._made_with = read_json(self._notes) if self._notes.is_file() else {}
        stale = self._stale(pipeline)
        if stale:
            logger.warning(
                "%s: made with other values of %s, and read as it is; run --pipelines=%s too, or the whole study",
                _listed(stale),
                ", ".join(sorted({name for each in stale for name in self._changed(each)})),
                ",".join(_makers(stale, self._stale)),
            )
        if run_params.get("only_missing_outputs"):  # which leaves nodes out, and with them their inputs
            return
        missing = _missing(catalog)(pipeline)
        if missing:
            makers = ",".join(_makers(missing, _missing(catalog)))
            raise ValueError(f"{_listed(missing)} must be made first: run --pipelines={makers}, or the whole study")

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Note with which parameters a dataset was made, by its node and those before it."""
        inherited = {name: value for each in node.inputs for name, value in self._made_with.get(each, {}).items()}
        own = [each.removeprefix("params:") for each in node.inputs]
        self._made_with[dataset_name] = inherited | {name: self._now[name] for name in own if name in self._now}
        write_json(self._notes, self._made_with)

    def _stale(self, pipeline: Pipeline) -> list[str]:
        return [name for name in _inputs(pipeline) if self._changed(name)]

    def _changed(self, dataset: str) -> list[str]:
        return [name for name, value in self._made_with.get(dataset, {}).items() if self._now.get(name) != value]


def _digest(parameters: object) -> str:
    return hashlib.sha256(json.dumps(identity(parameters), sort_keys=True).encode()).hexdigest()[:16]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)


def _inputs(pipeline: Pipeline) -> list[str]:
    return sorted(name for name in pipeline.inputs() if not name.startswith("params:"))


def _missing(catalog: DataCatalog) -> Callable[[Pipeline], list[str]]:
    return lambda pipeline: [name for name in _inputs(pipeline) if not catalog.exists(name)]


def _makers(datasets: Collection[str], lacking: Callable[[Pipeline], list[str]]) -> list[str]:
    """Return the pipelines that make datasets, and what these lack themselves.

    Each dataset is made by the first pipeline that has it: those of ablations repeat nodes of others.
    """
    named = [maker for maker in pipelines if maker != "__default__"]
    first = {name: maker for maker in reversed(named) for name in pipelines[maker].all_outputs()}
    found: list[str] = []
    while datasets:
        new = {first[name] for name in datasets}
        found = [maker for maker in named if maker in found or maker in new]
        datasets = lacking(sum((pipelines[maker] for maker in found), Pipeline([])))
    return found
