"""document_samples -> tokens -> corpus_counts."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred

NODES = "budwood.pipelines.corpus.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Look at text, and pack it with the teacher's tokenizer."""
    del parameters
    pack = ["document_samples", "teacher", "params:corpus", "params:conditions", "workspace"]
    return Pipeline(
        [
            Node(Deferred(NODES, "sample_documents"), "params:corpus", "document_samples", name="sample_documents"),
            Node(Deferred(NODES, "pack_documents"), pack, "tokens", name="pack_documents"),
            Node(Deferred(NODES, "count_tokens"), "tokens", "corpus_counts", name="count_tokens"),
        ],
        tags="corpus",
    )
