"""Compare search spaces."""

from budwood.pipelines.ablation_spaces.pipeline import create_pipeline

__all__ = ["create_pipeline"]
