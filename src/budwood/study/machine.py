"""The machine that a plan is made for."""

from dataclasses import replace
from pathlib import Path

from budwood.models.device import choose_compute, memory_bytes
from budwood.records.cost import Cost
from budwood.records.form import read_records
from budwood.reporting.accelerator import ACCELERATORS, Accelerator, paces_of
from budwood.reporting.settings import PlanSettings
from budwood.study.settings import MeasurementSettings
from budwood.subnet.probe import probe_machine


def planned_machine(settings: PlanSettings, measurement: MeasurementSettings, root: Path) -> tuple[Accelerator, str]:
    """Return what a study would run on, and how fast that is taken to be.

    Raises:
        ValueError: there is no ledger where one is named, or no device.
    """
    if settings.accelerator == "here":
        compute = choose_compute(*measurement.hardware)
        speed = probe_machine(compute)
        accelerator = Accelerator(
            flops_per_second=speed.passes,
            memory_bytes=memory_bytes(compute.device),
            precision=compute.precision,
            speed=speed,
        )
    else:
        accelerator = ACCELERATORS[settings.accelerator]
    if settings.ledger is None:
        peak = "the speed of its matrix products" if accelerator.speed else "its peak"
        return accelerator, f"at {settings.mfu:.0%} of {peak}"
    file = root / settings.ledger
    spent = read_records(file) if file.is_file() else None
    if not (isinstance(spent, list) and spent and all(isinstance(cost, Cost) for cost in spent)):
        raise ValueError(f"plan.ledger={settings.ledger!r} must be the ledger.json of a run: {file} is none")
    return replace(accelerator, paces=paces_of(spent, settings.num_devices)), f"at the pace of {settings.ledger}"
