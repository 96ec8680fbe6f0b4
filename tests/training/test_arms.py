"""Arms as stages: what a later run takes up, and what it does again."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from budwood.arch.count import training_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.study.settings import Conditions, MeasurementSettings, ProtocolSettings
from budwood.study.stage import Workspace
from budwood.study.training import Start, TrainArm, Trained
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule
from budwood.training.student import Student

pytestmark = pytest.mark.slow

SCHEDULE = {"sequence_length": 12, "global_batch": 8, "micro_batch": 8, "num_evaluations": 1, "checkpoint_steps": 3}
MEASUREMENT = MeasurementSettings(
    length=12, calibration=1, selection=1, choice=1, validation=1, heldout=2, device="cpu", precision="float32"
)
STEADY = {"shape": "warmup_stable_decay", "decay_ratio": 0.2}
ARM = ArmSettings(learning_rate=0.01)


def conditions(steps: int, **schedule: object) -> Conditions:
    """Return how arms are trained in some steps."""
    return Conditions(
        measurement=MEASUREMENT,
        protocol=ProtocolSettings(),
        schedule=Schedule(**SCHEDULE | {"tokens": steps * 8 * 12} | schedule),
        arms=Arms(
            random_init=ARM,
            subnet_init=ARM,
            reference_init=ARM,
            distilled=ArmSettings(learning_rate=0.01, distillation=DistillationSettings()),
        ),
        engine=Engine(compile_loss="off"),
    )


@pytest.fixture
def materials(teacher_folder, corpus_folder):
    """Return teacher and text."""
    return Checkpoint.open(teacher_folder), PackedCorpus.open(corpus_folder)


@pytest.fixture
def own_teacher(materials):
    """Return a teacher that differs in nothing but its fingerprint."""
    return replace(materials[0], fingerprint="another")


@pytest.fixture
def start(model_folder) -> Start:
    """Return the child's checkpoint as a start."""
    return Start(initialisation="checkpoint", checkpoint=Checkpoint.open(model_folder))


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """Return what runs a stage in one workspace and returns its result and the forward passes it took."""
    passes, forward = [], Student.forward
    monkeypatch.setattr(Student, "forward", lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs))

    def run(stage: TrainArm) -> tuple[Trained, int]:
        passes.clear()
        return Workspace(folder=tmp_path).finish(stage), len(passes)

    return run


@pytest.fixture
def run_arm(start, materials, finish):
    """Return what runs an arm on a schedule."""

    def run(arm, steps, **schedule):
        return finish(TrainArm.of("child", start, materials, conditions(steps, **schedule), arm))

    return run


def test_how_a_run_proceeds_does_not_orphan_what_it_learned(run_arm):
    first, passes = run_arm(ARM, 2)
    assert passes == 2
    assert first.curve["tokens"].max() == first.record.tokens == 192
    again, passes = run_arm(ARM, 2, micro_batch=4, checkpoint_steps=1)
    assert (again.model.folder, again.record, passes) == (first.model.folder, first.record, 0)
    pd.testing.assert_frame_equal(again.curve, first.curve)
    assert run_arm(ARM, 2, weight_decay=0.5)[0].model.folder != first.model.folder


def test_a_longer_run_continues_a_shorter_one_where_its_schedule_lets_it(run_arm):
    assert run_arm(ARM, 5, **STEADY)[1] == 5
    longer, passes = run_arm(ARM, 10, **STEADY)
    assert passes == 6
    assert longer.record.tokens == 960
    assert list(longer.curve.loc[longer.curve["train_loss"].notna(), "step"]) == list(range(1, 11))
    assert run_arm(ARM, 10)[1] == 10  # a cosine knows its end from the start


def test_an_arm_without_a_rate_takes_the_schedules(run_arm):
    assert run_arm(ArmSettings(), 1, peak_learning_rate=0.02)[0].record.learning_rate == 0.02
    assert run_arm(ARM, 1, peak_learning_rate=0.02)[0].record.learning_rate == 0.01


def test_an_arm_continues_what_its_probe_has_begun(start, materials, finish, run_arm):
    """Five steps are probed, four of them before the decay: the arm has six of its ten steps left."""
    short = TrainArm.of("probe", start, materials, conditions(5, **STEADY), ARM)
    probed, _ = finish(replace(short, continued_by="child"))
    record = probed.record
    assert (record.arm, record.steps, record.steady_steps) == ("probe", 5, 4)
    whole, passes = run_arm(ARM, 10, **STEADY)
    assert passes == 6
    tables = [trained.curve for trained in (whole, probed)]
    together = [table.loc[table["step"].between(1, 4), ["step", "train_loss"]] for table in tables]
    pd.testing.assert_frame_equal(*together)


def test_the_first_steps_of_a_reused_run_count_as_used(start, materials, finish, tmp_path):
    """Otherwise they would be removed as old, and a longer run would begin again."""
    stage = TrainArm.of("child", start, materials, conditions(5, **STEADY), ARM)
    finish(stage)
    (used,) = tmp_path.glob("steady-*/used")
    before = used.read_text()
    finish(stage)
    assert used.read_text() > before


def test_an_architecture_can_be_trained_without_a_checkpoint(materials, finish):
    architecture = materials[0].architecture
    small = replace(architecture, layers=architecture.layers[:1])
    start = Start(initialisation="random", named=small)
    trained, _ = finish(TrainArm.of("reference_init", start, materials, conditions(1)))
    assert trained.model.architecture == small
    flops = training_flops_per_token(small, context=12)
    assert (trained.record.student_flops, trained.record.steady_steps) == (96 * flops, 0)


def test_a_further_seed_is_another_run_of_the_same_arm(start, materials, finish):
    random = replace(start, initialisation="random")
    stage = TrainArm.of("random_init", random, materials, conditions(1, seed=7))
    (first, _), (second, _) = (finish(stage.seeded(seed)) for seed in (7, 8))
    assert first.model.folder != second.model.folder
    assert (first.record.arm, first.record.seed) == ("random_init", 7)
    assert (second.record.arm, second.record.seed) == ("random_init", 8)
    # Other weights from the start.
    assert first.curve["heldout_loss"].iloc[0] != second.curve["heldout_loss"].iloc[0]


def test_a_teacher_that_takes_no_part_does_not_decide(start, materials, own_teacher):
    teacher, tokens = materials
    plain, other = (TrainArm.of("subnet_init", start, (each, tokens), conditions(1)) for each in (teacher, own_teacher))
    assert plain.facts() == other.facts()
    taught, under = (TrainArm.of("distilled", start, (each, tokens), conditions(1)) for each in (teacher, own_teacher))
    assert taught.facts() != under.facts()


def test_a_finished_arm_whose_model_was_damaged_is_refused_and_trained_anew_once_removed(run_arm):
    trained, _ = run_arm(ARM, 1)
    weights = trained.model.folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(
        ValueError, match=r"is damaged \(model/model\.safetensors changed .*\): remove this folder and run"
    ):
        run_arm(ARM, 1)
    shutil.rmtree(trained.model.folder.parent)
    assert run_arm(ARM, 1)[1] == 1
    assert weights.read_bytes() == before
