"""One sub-network distilled by several teachers -> table, figure, page."""

from pathlib import Path

from kedro.pipeline import Node, Pipeline

from budwood.parameters import AblationParameters, AblationTeacher, ArmParameters, changed_arm
from budwood.pipelines.ablation_teacher.nodes import fetch_teachers
from budwood.pipelines.ablations import Ablation, Variant, prepared, subnet_of, where_wanted


@where_wanted
def create_pipeline(ablations: AblationParameters) -> Pipeline:
    """Distill one student by every teacher (paper, appendix D and table 7)."""
    teachers = ablations.teachers
    exported = {name: teacher.subnet for name, teacher in teachers.items() if teacher.subnet is not None}
    fetched = [name for name, teacher in teachers.items() if teacher.source is not None]
    datasets = {name: _dataset(name, teacher) for name, teacher in teachers.items()}
    ablation = Ablation(
        name="teacher",
        title="Teachers",
        about="One sub-network of the study's own teacher, distilled on the same tokens by each teacher.",
        arm="distilled",
        subnets={"student": subnet_of(ablations.student)} | {f"by_{name}": path for name, path in datasets.items()},
        choose=_by_teacher,
    )
    outputs = [datasets[name] for name in fetched]
    fetching = [
        Node(
            fetch_teachers,
            ["params:ablations", "workspace"],
            outputs,
            name="fetch_teachers",
            namespace="subnets.ablations.teacher",
            tags="ablations",
        )
    ]
    preparing = prepared([ablations.student, *exported.values()])
    return preparing + Pipeline(fetching if fetched else []) + ablation.pipeline()


def _dataset(name: str, teacher: AblationTeacher) -> str:
    if teacher.subnet is not None:
        return subnet_of(teacher.subnet)
    return "teacher" if teacher.source is None else f"subnets.ablations.teacher.model_{name}"


def _by_teacher(ablations: AblationParameters, arm: ArmParameters, subnets: dict[str, Path]) -> dict[str, Variant]:
    live = changed_arm(arm, {})
    return {
        name: Variant(folder=subnets["student"], arm=live, teacher=subnets[f"by_{name}"], settings={"teacher": name})
        for name in ablations.teachers
    }
