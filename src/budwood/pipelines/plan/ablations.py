"""What ablations search and train, for the plan."""

from collections.abc import Callable

from budwood.arch.count import forward_flops_per_token
from budwood.models.teacher import describe_teacher
from budwood.parameters import AblationParameters, AblationTeacher, Place, with_tokens
from budwood.reporting.study import Ablation, Study, Variant

FindVariant = Callable[[str, str], Variant]
"""Takes a bin and a space."""
StudyBy = Callable[[str], Study]
"""Takes a metric that guides all searches."""


def planned_ablations(
    ablations: AblationParameters, study: Study, find: FindVariant, study_by: StudyBy
) -> list[Ablation]:
    """Return all ablations of an environment.

    Args:
        ablations: what is compared.
        study: how everything else is done.
        find: returns what may come out of a bin and a space.
        study_by: returns the study with its searches guided by another metric.
    """
    schedule = with_tokens(study.schedule, ablations.tokens)
    context = schedule.sequence_length

    def at(place: Place) -> Variant:
        return find(place.bin, place.space)

    def teacher_flops(teacher: AblationTeacher) -> float:
        if teacher.subnet is not None:
            return at(teacher.subnet).mean_forward(context)
        architecture = study.teacher if teacher.source is None else describe_teacher(teacher.source)
        return forward_flops_per_token(architecture, context=context)

    def ablation(name: str, searches: list[tuple[Study, Variant]], runs: list[tuple[Variant, float]]) -> Ablation:
        return Ablation(name=name, schedule=schedule, searches=tuple(searches), runs=tuple(runs))

    student, own = at(ablations.student), teacher_flops(AblationTeacher())
    spaces = [find(ablations.student.bin, space) for space in ablations.spaces]
    guided = find(ablations.student.bin, ablations.metric_space)
    subnets = [teacher.subnet for teacher in ablations.teachers.values() if teacher.subnet is not None]
    places = dict.fromkeys((place.bin, place.space) for place in [ablations.student, *subnets])
    return [
        ablation("spaces", [(study, space) for space in spaces], [(space, 0.0) for space in spaces]),
        ablation(
            "metric",
            [(study_by(metric), guided) for metric in ablations.metrics],
            [(guided, 0.0)] * len(ablations.metrics),
        ),
        ablation("logits", [(study, student)], [(student, own)] * len(ablations.logits)),
        ablation(
            "teacher",
            [(study, find(*place)) for place in places],
            [(student, teacher_flops(teacher)) for teacher in ablations.teachers.values()],
        ),
        ablation("kd_grid", [(study, student)], [(student, own)] * len(ablations.kd_grid.combinations())),
    ]
