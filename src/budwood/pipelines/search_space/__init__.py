"""What can be searched, before anything expensive."""

from budwood.pipelines.search_space.pipeline import create_pipeline

__all__ = ["create_pipeline"]
