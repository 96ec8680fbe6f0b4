"""teacher_record -> search_spaces -> space_samples."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred

NODES = "budwood.pipelines.search_space.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Enumerate the spaces, and check that every bin can be reached."""
    del parameters
    return Pipeline(
        [
            Node(
                Deferred(NODES, "enumerate_spaces"),
                ["teacher_record", "params:bins", "params:spaces", "params:grid"],
                "search_spaces",
                name="enumerate_spaces",
            ),
            Node(
                Deferred(NODES, "sample_spaces"),
                ["teacher_record", "search_spaces", "params:spaces", "params:search"],
                "space_samples",
                name="sample_spaces",
            ),
        ],
        tags="search_space",
    )
