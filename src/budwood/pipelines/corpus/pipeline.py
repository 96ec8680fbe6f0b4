"""documents -> tokens -> corpus_counts."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.corpus.nodes import count_tokens, pack_documents, read_documents


def create_pipeline() -> Pipeline:
    """Read text and pack it with the teacher's tokenizer."""
    return Pipeline(
        [
            Node(read_documents, "params:corpus", "documents", name="read_documents"),
            Node(
                pack_documents,
                ["documents", "teacher", "params:corpus", "params:measurement", "params:schedule", "workspace"],
                "tokens",
                name="pack_documents",
            ),
            Node(count_tokens, "tokens", "corpus_counts", name="count_tokens"),
        ],
        tags="corpus",
    )
