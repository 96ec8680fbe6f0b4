"""Arms as nodes of a pipeline: what a later run takes up, and what it does anew."""

from dataclasses import replace

import pandas as pd
import pytest

from budwood.arch.count import training_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import read_architecture
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.arms import Start, Training, arm_node
from budwood.training.settings import Engine, Schedule
from budwood.training.student import Student

SCHEDULE = {"sequence_length": 12, "global_batch": 8, "micro_batch": 8, "num_evaluations": 1, "checkpoint_steps": 3}
MEASUREMENT = MeasurementParameters(
    length=12, calibration=1, selection=1, choice=1, validation=1, heldout=2, device="cpu", precision="float32"
)


@pytest.fixture
def run_arm(model_folder, teacher_folder, corpus_folder, tmp_path, monkeypatch):
    """Return what runs an arm on a schedule and tells its outputs and the forward passes it took."""
    passes, forward = [], Student.forward
    monkeypatch.setattr(Student, "forward", lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs))
    node = arm_node("child", "checkpoint", "Train the child.")

    def run(arm, steps, **schedule):
        passes.clear()
        plan = Schedule(**SCHEDULE | {"tokens": steps * 8 * 12} | schedule)
        corpus = PackedCorpus.open(corpus_folder)
        outputs = node(
            model_folder, teacher_folder, corpus, arm, plan, MEASUREMENT, Engine(compile_loss="off"), tmp_path
        )
        return *outputs, len(passes)

    return run


def test_how_a_run_proceeds_does_not_orphan_what_it_learned(run_arm):
    arm = ArmParameters(learning_rate=0.01)
    folder, record, curve, passes = run_arm(arm, 2)
    assert passes == 2
    assert curve["tokens"].max() == record["tokens"] == 192
    again, same, _, passes = run_arm(arm, 2, micro_batch=4, checkpoint_steps=1)
    assert (again, same, passes) == (folder, record, 0)
    assert run_arm(arm, 2, weight_decay=0.5)[0] != folder


def test_a_longer_run_continues_a_shorter_one_where_its_schedule_lets_it(run_arm):
    arm = ArmParameters(learning_rate=0.01)
    settings = {"shape": "warmup_stable_decay", "decay_ratio": 0.2}
    assert run_arm(arm, 5, **settings)[-1] == 5
    _, record, curve, passes = run_arm(arm, 10, **settings)
    assert passes == 6
    assert record["tokens"] == 960
    assert list(curve.loc[curve["train_loss"].notna(), "step"]) == list(range(1, 11))
    assert run_arm(arm, 10)[-1] == 10  # a cosine knows its end from the start


def test_an_arm_without_a_rate_takes_the_schedules(run_arm):
    assert run_arm(ArmParameters(), 1, peak_learning_rate=0.02)[1]["learning_rate"] == 0.02
    assert run_arm(ArmParameters(learning_rate=0.01), 1, peak_learning_rate=0.02)[1]["learning_rate"] == 0.01


def test_an_arm_continues_what_its_probe_has_begun(model_folder, teacher_folder, corpus_folder, tmp_path, run_arm):
    """Five steps are probed, four of them before the decay: the arm has six of its ten steps left."""
    arm, settings = ArmParameters(learning_rate=0.01), {"shape": "warmup_stable_decay", "decay_ratio": 0.2}
    training = Training(
        teacher=teacher_folder,
        tokens=PackedCorpus.open(corpus_folder),
        schedule=Schedule(**SCHEDULE | {"tokens": 5 * 8 * 12} | settings),
        measurement=MEASUREMENT,
        engine=Engine(),
        workspace=tmp_path,
    )
    start = Start(initialisation="checkpoint", folder=model_folder)
    _, record, probed = training.run("probe", start, arm, continued_by="child")
    assert (record["arm"], record["steps"], record["steady_steps"]) == ("probe", 5, 4)
    *_, whole, passes = run_arm(arm, 10, **settings)
    assert passes == 6
    together = [table.loc[table["step"].between(1, 4), ["step", "train_loss"]] for table in (whole, probed)]
    pd.testing.assert_frame_equal(*together)


def test_an_architecture_can_be_trained_without_a_checkpoint(teacher_folder, corpus_folder, tmp_path):
    architecture = read_architecture(teacher_folder)
    small = replace(architecture, layers=architecture.layers[:1])
    training = Training(
        teacher=teacher_folder,
        tokens=PackedCorpus.open(corpus_folder),
        schedule=Schedule(**SCHEDULE | {"tokens": 8 * 12}),
        measurement=MEASUREMENT,
        engine=Engine(),
        workspace=tmp_path,
    )
    start = Start(initialisation="random", named=small)
    folder, record, _ = training.run("reference_init", start, ArmParameters(learning_rate=0.01))
    assert read_architecture(folder) == small
    flops = training_flops_per_token(small, context=12)
    assert (record["student_flops"], record["steady_steps"]) == (96 * flops, 0)


def test_a_further_seed_is_another_run_of_the_same_arm(model_folder, teacher_folder, corpus_folder, tmp_path):
    training = Training(
        teacher=teacher_folder,
        tokens=PackedCorpus.open(corpus_folder),
        schedule=Schedule(**SCHEDULE | {"tokens": 8 * 12, "seed": 7}),
        measurement=MEASUREMENT,
        engine=Engine(),
        workspace=tmp_path,
    )
    start, arm = Start(initialisation="random", folder=model_folder), ArmParameters(learning_rate=0.01)
    (folder, first, curve), (other, second, again) = (training.run_seed("random_init", start, arm, k) for k in (0, 1))
    assert folder != other
    assert (first["arm"], first["seed"]) == ("random_init", 7)
    assert (second["arm"], second["seed"]) == ("random_init", 8)
    # Other weights from the start.
    assert curve["heldout_loss"].iloc[0] != again["heldout_loss"].iloc[0]
