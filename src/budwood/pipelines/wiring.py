"""How nodes are put together: functions that are imported when they run, and names of a variant's datasets."""

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from kedro.pipeline import Node
from kedro.utils import find_kedro_project

from budwood.records.names import Variant

logger = logging.getLogger(__name__)

STOPPED = 128 + signal.SIGTERM
"""Exit status of a process that SIGTERM ended, as shells have it."""


def project_root() -> Path:
    """Return the project's folder, where relative paths begin."""
    return find_kedro_project(Path.cwd()) or Path.cwd()


def from_root(folder: Path) -> str:
    """Return a folder as seen from that of the project, so that it stays right where the project is moved."""
    root = project_root().resolve()
    return str(folder.resolve().relative_to(root) if folder.resolve().is_relative_to(root) else folder)


class Deferred:
    """A function of a module that is imported when it is first called.

    To list pipelines costs no import of torch then. Some arguments can be given beforehand.
    """

    def __init__(self, module: str, name: str, **arguments: Any) -> None:
        """Name a module and a function in it; arguments are given beforehand, by keyword."""
        self.module, self.__name__, self.arguments = module, name, arguments
        # Kedro reads the types of parameters from here; ours are typed before nodes are made.
        self.__annotations__: dict[str, type] = {}

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(import_module(self.module), self.__name__)
        return found

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, by the name under which Kedro-Viz looks for source to show."""
        return self.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            SystemExit: a training was asked to stop; as elsewhere, the run ends without a traceback.
        """
        try:
            return self.function(*args, **kwargs, **self.arguments)
        except RuntimeError as error:
            from budwood.training.run import TrainingStoppedError  # noqa: PLC0415 - only what raised it has torch

            if not isinstance(error, TrainingStoppedError):
                raise
            logger.warning("%s", error)
            raise SystemExit(STOPPED) from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a variant's nodes and datasets are: in the namespace `subnets.<bin>.<space>`."""

    variant: Variant
    tags: tuple[str, ...] = field(default=())

    @property
    def namespace(self) -> str:
        """The namespace."""
        return f"subnets.{self.variant.bin}.{self.variant.space}"

    @property
    def bin_parameters(self) -> str:
        """The parameters of the bin."""
        return f"params:bins.{self.variant.bin}"

    @property
    def space_parameters(self) -> str:
        """The parameters of the space."""
        return f"params:spaces.{self.variant.space}"

    @property
    def conditions(self) -> str:
        """The parameters that say how everything of the bin is measured and trained."""
        return f"params:bin_conditions.{self.variant.bin}"

    def own(self, *names: str) -> list[str]:
        """Return datasets of the variant."""
        return [f"{self.namespace}.{name}" for name in names]

    def node(
        self, function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str], *, name: str | None = None
    ) -> Node:
        """Return a node of the variant.

        Args:
            function: takes the inputs by position.
            inputs: full names of datasets.
            outputs: the same; one alone is the function's whole result.
            name: of the node; the function's without one.
        """
        tags = [*self.variant, *self.tags]
        return shared_node(function, inputs, outputs, name=name, namespace=self.namespace, tags=tags)


def shared_node(
    function: Callable[..., Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    name: str | None = None,
    namespace: str | None = None,
    tags: Sequence[str] = (),
) -> Node:
    """Return a node of no single variant; see `Place.node`."""
    made = outputs[0] if len(outputs) == 1 else list(outputs)
    return Node(function, list(inputs), made, name=name or function.__name__, namespace=namespace, tags=tags)


def own_of(variants: Sequence[Variant], what: str) -> list[str]:
    """Return the same dataset of several variants."""
    return [name for variant in variants for name in Place(variant).own(what)]
