"""Train under the teacher."""

from pathlib import Path

from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.arms import ArmOutputs, train_arm
from budwood.training.job import Schedule


def train_distilled(
    subnet: Path,
    teacher: Path,
    tokens: PackedCorpus,
    arm: ArmParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    workspace: Path,
) -> ArmOutputs:
    """Train the sub-network from the weights it was cut with, towards the teacher's distribution and the text."""
    return train_arm(("distilled", "checkpoint", arm), (subnet, teacher), tokens, schedule, measurement, workspace)
