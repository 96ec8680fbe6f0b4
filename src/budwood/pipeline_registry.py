"""All pipelines by name."""

from collections.abc import Callable

from kedro.framework.project import settings
from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines import (
    ablations,
    corpus,
    evaluation,
    evolution,
    export,
    plan,
    probe,
    reporting,
    search_space,
    selection,
    teacher,
    training,
)
from budwood.pipelines.parameters import ParametersHook

STAGES: dict[str, Callable[[ProjectParameters], Pipeline]] = {
    "corpus": corpus.create_pipeline,
    "teacher": teacher.create_pipeline,
    "search_space": search_space.create_pipeline,
    "plan": plan.create_pipeline,
    "evolution": evolution.create_pipeline,
    "export": export.create_pipeline,
    "probe": probe.create_pipeline,
    "selection": selection.create_pipeline,
    "pretraining": training.create_pretraining,
    "distillation": training.create_distillation,
    "evaluation": evaluation.create_pipeline,
    "reporting": reporting.create_pipeline,
}
"""What a whole study runs."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by its name; all but the ablations together are the default."""
    (hook,) = (hook for hook in settings.HOOKS if isinstance(hook, ParametersHook))
    parameters = hook.current()
    study = {name: create(parameters) for name, create in STAGES.items()}
    return study | ablations.create_pipelines(parameters) | {"__default__": sum(study.values(), Pipeline([]))}
