"""teacher_record -> search_spaces -> space_samples."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.search_space.nodes import enumerate_spaces, sample_spaces


def create_pipeline() -> Pipeline:
    """Enumerate the spaces, check that every bin can be reached."""
    return Pipeline(
        [
            Node(
                enumerate_spaces,
                ["teacher_record", "params:bins", "params:spaces", "params:grid"],
                "search_spaces",
                name="enumerate_spaces",
            ),
            Node(
                sample_spaces,
                ["teacher_record", "search_spaces", "params:spaces", "params:search"],
                "space_samples",
                name="sample_spaces",
            ),
        ],
        tags="search_space",
    )
