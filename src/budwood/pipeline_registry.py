"""All pipelines by name."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

ABLATION = "ablation_"
"""How the names of pipelines begin that are run by name alone."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by its folder's name; all but the ablations together are the default."""
    pipelines = find_pipelines(raise_errors=True)
    study = [pipeline for name, pipeline in pipelines.items() if not name.startswith(ABLATION)]
    pipelines["__default__"] = sum(study, Pipeline([]))
    return pipelines
