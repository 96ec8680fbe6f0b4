"""teacher_record -> search_spaces -> space_samples."""

from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, shared_node

NODES = "budwood.study.space"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Enumerate the spaces, and check that every bin can be reached."""
    grid = ["teacher_record", "params:bins", "params:spaces", "params:grid"]
    sampled = ["teacher_record", "search_spaces", "params:spaces", "params:search"]
    nodes = [
        shared_node(Deferred(NODES, "enumerate_spaces"), grid, ["search_spaces"]),
        shared_node(Deferred(NODES, "sample_spaces"), sampled, ["space_samples"]),
    ]
    return Pipeline(nodes, tags="search_space")
