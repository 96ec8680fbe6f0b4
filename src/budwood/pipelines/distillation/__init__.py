"""Train the sub-network under its teacher."""

from budwood.pipelines.distillation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
