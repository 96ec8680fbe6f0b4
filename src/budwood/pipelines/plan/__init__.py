"""What a study will cost, before it is spent."""

from budwood.pipelines.plan.pipeline import create_pipeline

__all__ = ["create_pipeline"]
