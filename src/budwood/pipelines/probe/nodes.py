"""Probe a sub-network: train it on few tokens, and see how well it then predicts text that choices are made on."""

import time
from pathlib import Path
from typing import Any

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import load_model, read_architecture
from budwood.models.losses import sequence_losses
from budwood.parameters import ArmParameters, MeasurementParameters, ProtocolParameters
from budwood.pipelines.arms import ArmOutputs, Start, Training
from budwood.pipelines.evolution.evaluators import windows_of
from budwood.pipelines.tracking import run_of, track
from budwood.reporting.records import CONTINUED
from budwood.training.settings import Engine, Schedule

PROBE = "probe"


def train_probe(
    subnet: Path,
    teacher: Path,
    tokens: PackedCorpus,
    arm: ArmParameters,
    protocol: ProtocolParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    engine: Engine,
    workspace: Path,
) -> ArmOutputs:
    """Train the sub-network as `subnet_init` is trained, on the tokens of a probe."""
    short = protocol.probe_schedule(schedule)
    assert short is not None, "probes are only in the pipeline where they have a budget"
    training = Training(
        teacher=teacher, tokens=tokens, schedule=short, measurement=measurement, engine=engine, workspace=workspace
    )
    return training.run(PROBE, Start(initialisation="subnet", folder=subnet), arm, continued_by=CONTINUED)


def score_probe(
    probe: Path, probe_run: dict[str, Any], tokens: PackedCorpus, measurement: MeasurementParameters
) -> dict[str, Any]:
    """Return the probe's losses on the text of the choice, beside its training record and what that look cost."""
    started = time.perf_counter()
    compute, architecture = measurement.compute(), read_architecture(probe)
    windows = windows_of(tokens, "choice", measurement)
    model = compute.place(load_model(probe, compute.dtype))
    losses = sequence_losses(model, windows, batch_size=measurement.batch_size, progress="probe on choice")
    with run_of(PROBE):
        track({"choice_loss": float(losses.mean())}, probe_run["steps"])
    read = windows[:, 1:].numel()
    flops = float(read * forward_flops_per_token(architecture, context=measurement.length))
    looked = {"tokens": read, "flops": flops, "seconds": time.perf_counter() - started}
    return probe_run | {"num_parameters": num_parameters(architecture), "losses": losses.tolist(), "looked": looked}
