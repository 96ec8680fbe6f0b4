"""document_samples -> tokens -> corpus_counts."""

from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, shared_node

NODES = "budwood.pipelines.corpus.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Look at text, and pack it with the teacher's tokenizer; there must be enough for the longest training."""
    bins = parameters.conditions_by_bin
    longest = max(bins, key=lambda name: bins[name].schedule.num_tokens)
    pack = ["document_samples", "teacher", "params:corpus", f"params:bin_conditions.{longest}", "workspace"]
    nodes = [
        shared_node(Deferred(NODES, "sample_documents"), ["params:corpus"], ["document_samples"]),
        shared_node(Deferred(NODES, "pack_documents"), pack, ["tokens"]),
        shared_node(Deferred(NODES, "count_tokens"), ["tokens"], ["corpus_counts"]),
    ]
    return Pipeline(nodes, tags="corpus")
