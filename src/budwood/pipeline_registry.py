"""All pipelines by name."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

ABLATION = "ablation_"
"""How the names of pipelines begin that are run by name alone."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline by its folder's name; all but the ablations together are the default.

    Raises:
        ValueError: a pipeline is asked for by name that this environment does not have.
    """
    pipelines = find_pipelines(raise_errors=True)
    # Where some are asked for, Kedro finds no others, and no default.
    for name, pipeline in pipelines.items() if "__default__" not in pipelines else ():
        if not pipeline.nodes:
            needed = "ablations" if name.startswith(ABLATION) else "protocol.probe_tokens"
            raise ValueError(f"pipeline {name} is empty in this environment: the parameters give no {needed}")
    study = [pipeline for name, pipeline in pipelines.items() if not name.startswith(ABLATION)]
    pipelines["__default__"] = sum(study, Pipeline([]))
    return pipelines
