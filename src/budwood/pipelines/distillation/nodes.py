"""Train under the teacher, live or from what it has said once."""

from functools import cache
from pathlib import Path
from typing import Any

from budwood.arch.count import forward_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import read_architecture
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.arms import arm_node
from budwood.pipelines.work import claim
from budwood.training.cache import TeacherCache, write_cache
from budwood.training.run import training_order
from budwood.training.settings import Schedule
from budwood.training.teacher import LiveTeacher, cache_facts, open_live_teacher

train_distilled = arm_node(
    "distilled",
    "subnet",
    "Train the sub-network towards the teacher's distribution and the text.",
)


def cache_teacher(
    teacher: Path,
    tokens: PackedCorpus,
    arm: ArmParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    workspace: Path,
) -> tuple[TeacherCache, dict[str, Any]]:
    """Return what the teacher says of all training sequences, for every variant, and a record with its cost."""
    settings, length = arm.distillation, schedule.sequence_length
    assert settings is not None, "the parameters give this arm a teacher"
    facts = cache_facts(teacher, tokens, length, settings)
    sequences = schedule.model_dump(include={"tokens", "sequence_length", "global_batch", "seed"})
    compute = measurement.compute()
    folder = claim(workspace, "teacher_cache", facts | {"sequences": sequences, "precision": compute.precision})

    @cache
    def live() -> LiveTeacher:
        # Not before it is needed: a finished cache asks nothing.
        return open_live_teacher(teacher, settings, compute)

    said = write_cache(
        folder / "cache",
        lambda input_ids, starts: live().entries(input_ids, starts),
        tokens,
        training_order(tokens, schedule),
        facts,
        measurement.batch_size,
    )
    flops = said.record["tokens"] * forward_flops_per_token(read_architecture(teacher), context=length)
    cost = {"stage": "teacher_cache", "arm": "distilled", "flops": float(flops)}
    cost |= {name: said.record[name] for name in ("tokens", "seconds")}
    return said, {**said.facts, **said.record, "costs": [cost]}
