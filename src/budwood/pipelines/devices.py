"""A run that will train where it cannot is refused before its first node."""

from collections.abc import Iterator
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from budwood.parameters.project import ProjectParameters
from budwood.records.names import ARMS
from budwood.study.devices import require_devices, try_launcher
from budwood.training.settings import ArmSettings, Schedule

TRAINING = {"train_arm", "train_reference", "train_probe", "ablate"}
"""Functions of nodes that train."""
CHOOSING = "choose_winner"
"""Trains where finalists are given tokens."""


class DevicesHook:
    """Refuses a launcher that cannot train, while nothing has been spent."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Look at the machine where a node will train, and try the launcher.

        Raises:
            ValueError: it has no accelerator, the launcher fails, or its processes have too few devices or cannot share
                a batch.
        """
        if run_params.get("only_missing_outputs"):  # may leave these nodes out
            return
        study = catalog.load("params:study")
        training = TRAINING | ({CHOOSING} if study.search.finalist_tokens else set())
        if training & {str(getattr(node.func, "__name__", "")) for node in pipeline.nodes}:
            require_devices(study.engine, study.measurement)
            try_launcher(study.engine, study.measurement, _schedules(study), catalog.load("workspace"))


def _schedules(study: ProjectParameters) -> Iterator[Schedule]:
    """Yield those of all arms in all bins."""
    for conditions in study.conditions_by_bin.values():
        for arm in ARMS:
            settings: ArmSettings = getattr(conditions.arms, arm)
            yield settings.fitted(conditions.schedule)
