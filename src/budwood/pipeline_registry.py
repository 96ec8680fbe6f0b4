"""All pipelines by name."""

from collections.abc import Callable

from kedro.framework.project import pipelines, settings
from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.ablations import pipeline as ablations
from budwood.pipelines.corpus import pipeline as corpus
from budwood.pipelines.evaluation import pipeline as evaluation
from budwood.pipelines.evolution import pipeline as evolution
from budwood.pipelines.export import pipeline as export
from budwood.pipelines.parameters import ParametersHook
from budwood.pipelines.plan import pipeline as plan
from budwood.pipelines.probe import pipeline as probe
from budwood.pipelines.publish import pipeline as publish
from budwood.pipelines.reporting import pipeline as reporting
from budwood.pipelines.search_space import pipeline as search_space
from budwood.pipelines.selection import pipeline as selection
from budwood.pipelines.teacher import pipeline as teacher
from budwood.pipelines.training import pipeline as training

PIPELINES: dict[str, Callable[[ProjectParameters], Pipeline]] = {
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
_NEEDED = {"probe": "protocol.probe_tokens", "selection": "protocol.probe_tokens", "publish": "push"}
"""What an environment gives to have a pipeline."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by its name; all but ablations and publishing together are the default.

    Raises:
        ValueError: a pipeline is asked for by name that this environment does not have.
    """
    (hook,) = (hook for hook in settings.HOOKS if isinstance(hook, ParametersHook))
    parameters = hook.current()
    study = {name: create(parameters) for name, create in PIPELINES.items()}
    found = study | ablations.create_pipelines(parameters) | {"publish": publish.create_pipeline(parameters)}
    for name in pipelines._requested_pipelines or ():  # noqa: SLF001 - Kedro has no public name for it
        if name in found and not found[name].nodes:
            needed = "ablations" if name.startswith(ablations.PREFIX) else _NEEDED[name]
            raise ValueError(f"pipeline {name} is empty in this environment: the parameters give no {needed}")
    return found | {"__default__": sum(study.values(), Pipeline([]))}
