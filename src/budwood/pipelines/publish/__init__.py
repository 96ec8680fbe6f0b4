"""Publish exports on the Hugging Face Hub; run by its name alone."""

from budwood.pipelines.publish.pipeline import create_pipeline

__all__ = ["create_pipeline"]
