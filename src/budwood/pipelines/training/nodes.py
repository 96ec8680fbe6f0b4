"""Train arms and probes, and write down once what a cached teacher says."""

from dataclasses import replace
from pathlib import Path

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import choose_compute
from budwood.pipelines.tracking import finish_in, open_workspace
from budwood.records.names import CONTINUED, REFERENCE
from budwood.records.training import ProbeScore, TrainingRecord
from budwood.study.evaluation import ScoreProbe
from budwood.study.settings import BinSettings, Conditions
from budwood.study.text import Materials, Windows
from budwood.study.training import Cached, CacheTeacher, Start, TrainArm, Trained
from budwood.training.cache import TeacherCache
from budwood.training.job import Initialisation


def train_arm(
    subnet: Checkpoint,
    teacher: Checkpoint,
    tokens: PackedCorpus,
    conditions: Conditions,
    workspace: Path,
    cache: TeacherCache | None = None,
    *,
    arm: tuple[str, Initialisation],
    seed: int,
) -> Trained:
    """Train one arm from a sub-network: from its weights, or from random ones of its architecture."""
    name, initialisation = arm
    run = TrainArm.of(name, Start(initialisation=initialisation, checkpoint=subnet), (teacher, tokens), conditions)
    return open_workspace(workspace).finish(replace(run.seeded(seed), cache=cache))


def train_reference(
    teacher: Checkpoint, tokens: PackedCorpus, bin_: BinSettings, conditions: Conditions, workspace: Path, *, seed: int
) -> Trained:
    """Train the architecture that the bin names as its reference from its family's own initialisation."""
    assert bin_.reference is not None, "only bins with a reference have this node"
    start = Start(initialisation="random", named=bin_.reference.architecture())
    run = TrainArm.of(REFERENCE, start, (teacher, tokens), conditions)
    return open_workspace(workspace).finish(run.seeded(seed))


def train_probe(
    subnet: Checkpoint, teacher: Checkpoint, tokens: PackedCorpus, conditions: Conditions, workspace: Path
) -> Trained:
    """Train the sub-network as `subnet_init` is trained, on the tokens of a probe."""
    short = conditions.protocol.probe_schedule(conditions.schedule)
    assert short is not None, "probes are only in the pipeline where they have a budget"
    start = Start(initialisation="checkpoint", checkpoint=subnet)
    run = TrainArm.of(CONTINUED, start, (teacher, tokens), conditions.model_copy(update={"schedule": short}))
    return open_workspace(workspace).finish(replace(run, arm="probe", continued_by=CONTINUED))


def score_probe(
    probe: Checkpoint, probe_run: TrainingRecord, tokens: PackedCorpus, conditions: Conditions, workspace: Path
) -> ProbeScore:
    """Return the probe's losses on the text of the choice, beside its training record and what that look cost."""
    measurement = conditions.measurement
    stage = ScoreProbe(
        model=probe,
        record=probe_run,
        choice=Windows.searched(tokens, "choice", measurement),
        compute=choose_compute(*measurement.hardware),
        batch_size=measurement.batch_size,
    )
    return finish_in("probe", stage, workspace)


def cache_teacher(
    teacher: Checkpoint, tokens: PackedCorpus, conditions: Conditions, workspace: Path, *, num_tokens: int
) -> Cached:
    """Return what the teacher says of the sequences of the longest training, for every variant, and what that cost."""
    settings, materials = conditions.arms.distilled.distillation, Materials(teacher, tokens, conditions.measurement)
    assert settings is not None, "the parameters give this arm a teacher"
    stage = CacheTeacher.of(materials, settings, conditions.schedule.of_length(num_tokens))
    return open_workspace(workspace).finish(stage)
