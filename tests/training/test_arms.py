"""Arms as nodes of a pipeline: what a later run takes up, and what it does anew."""

import pytest

from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.arms import arm_node
from budwood.training.job import Engine, Schedule
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
