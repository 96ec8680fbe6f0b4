"""Pretrain with the plain language-modelling loss."""

from pathlib import Path

from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.arms import ArmOutputs, train_arm
from budwood.training.job import Schedule


def train_random_init(
    subnet: Path,
    teacher: Path,
    tokens: PackedCorpus,
    arm: ArmParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    workspace: Path,
) -> ArmOutputs:
    """Train the sub-network's architecture from its family's own initialisation."""
    return train_arm(("random_init", "random", arm), (subnet, teacher), tokens, schedule, measurement, workspace)


def train_subnet_init(
    subnet: Path,
    teacher: Path,
    tokens: PackedCorpus,
    arm: ArmParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    workspace: Path,
) -> ArmOutputs:
    """Train the sub-network from the weights it was cut with."""
    return train_arm(("subnet_init", "checkpoint", arm), (subnet, teacher), tokens, schedule, measurement, workspace)
