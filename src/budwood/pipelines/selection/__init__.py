"""Choose the space of every bin by its probes."""

from budwood.pipelines.selection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
