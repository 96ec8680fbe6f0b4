"""A run that will train where it cannot is refused before its first node."""

from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from budwood.study.devices import require_devices

TRAINING = {"train_arm", "train_reference", "train_probe", "ablate"}
"""Functions of nodes that train."""
CHOOSING = "choose_winner"
"""Trains where finalists are given tokens."""


class DevicesHook:
    """Refuses a launcher on a machine without accelerators while nothing has been spent."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look at the machine where a node will train.

        Raises:
            ValueError: it has nothing to start a launcher's processes on.
        """
        if run_params.get("only_missing_outputs"):  # may leave these nodes out
            return
        study = catalog.load("params:study")
        training = TRAINING | ({CHOOSING} if study.search.finalist_tokens else set())
        if training & {str(getattr(node.func, "__name__", "")) for node in pipeline.nodes}:
            require_devices(study.engine, study.measurement)
