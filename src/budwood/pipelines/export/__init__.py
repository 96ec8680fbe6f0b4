"""Cut the winner out as a checkpoint."""

from budwood.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
