"""Search every variant and choose its winner."""

from budwood.pipelines.evolution.pipeline import create_pipeline

__all__ = ["create_pipeline"]
