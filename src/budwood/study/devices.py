"""Whether this machine has what a study trains on."""

from collections.abc import Iterable
from pathlib import Path

from budwood.models.device import choose_compute
from budwood.study.settings import MeasurementSettings
from budwood.training.launch import count_processes
from budwood.training.settings import Engine, Schedule


def require_devices(engine: Engine, measurement: MeasurementSettings) -> None:
    """Check that a launcher has devices for its processes.

    Raises:
        ValueError: it has none, and no setting lets them share the processor.
    """
    if engine.launcher and measurement.device == "auto" and choose_compute(*measurement.hardware).name == "cpu":
        raise ValueError(
            "engine.launcher starts a process for every device, and this machine has no accelerator: name "
            "measurement.device: cpu to share its processor, or train without a launcher"
        )


def try_launcher(engine: Engine, measurement: MeasurementSettings, schedules: Iterable[Schedule], folder: Path) -> None:
    """Start the processes of a launcher for a moment, and check their devices, and that they can share all batches.

    Args:
        engine: without a launcher there is nothing to try.
        measurement: names the device.
        schedules: by which it will train.
        folder: exists, and is seen by all nodes.

    Raises:
        ValueError: the launcher fails, a machine has fewer devices than processes, or these cannot share a batch
            equally.
    """
    if engine.launcher:
        num_processes = count_processes(engine.launcher, folder, choose_compute(*measurement.hardware).name)
        for schedule in schedules:
            schedule.require_shared_by(num_processes)
