"""Tables, figures and the report."""

from budwood.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
