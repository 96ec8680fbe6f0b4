"""document_samples -> tokens -> corpus_counts."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.corpus.nodes import count_tokens, pack_documents, sample_documents


def create_pipeline() -> Pipeline:
    """Look at text, and pack it with the teacher's tokenizer."""
    return Pipeline(
        [
            Node(sample_documents, "params:corpus", "document_samples", name="sample_documents"),
            Node(
                pack_documents,
                [
                    "document_samples",
                    "teacher",
                    "params:corpus",
                    "params:measurement",
                    "params:schedule",
                    "workspace",
                ],
                "tokens",
                name="pack_documents",
            ),
            Node(count_tokens, "tokens", "corpus_counts", name="count_tokens"),
        ],
        tags="corpus",
    )
