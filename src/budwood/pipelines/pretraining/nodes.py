"""Pretrain with the plain language-modelling loss."""

from pathlib import Path

from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, BinParameters, MeasurementParameters
from budwood.pipelines.arms import ArmOutputs, Start, Training, arm_node
from budwood.reporting.records import REFERENCE
from budwood.training.settings import Engine, Schedule

train_random_init = arm_node(
    "random_init", "random", "Train the sub-network's architecture from its family's own initialisation."
)
train_subnet_init = arm_node("subnet_init", "subnet", "Train the sub-network from the weights it was cut with.")


def train_reference_init(
    teacher: Path,
    tokens: PackedCorpus,
    bin_: BinParameters,
    arm: ArmParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    engine: Engine,
    workspace: Path,
    *,
    place: int = 0,
) -> ArmOutputs:
    """Train the architecture that the bin names as its reference from its family's own initialisation."""
    assert bin_.reference is not None, "only bins with a reference have this node"
    training = Training(
        teacher=teacher, tokens=tokens, schedule=schedule, measurement=measurement, engine=engine, workspace=workspace
    )
    start = Start(initialisation="random", named=bin_.reference.architecture())
    return training.run_seed(REFERENCE, start, arm, place)
