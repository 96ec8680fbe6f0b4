"""Whether this machine has what a study trains on."""

from budwood.models.device import choose_compute
from budwood.study.settings import MeasurementSettings
from budwood.training.settings import Engine


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
