"""Train the random baseline and the sub-network."""

from budwood.pipelines.pretraining.pipeline import create_pipeline

__all__ = ["create_pipeline"]
