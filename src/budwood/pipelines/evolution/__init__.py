"""Search the best sub-network of a bin."""

from budwood.pipelines.evolution.pipeline import create_pipeline

__all__ = ["create_pipeline"]
