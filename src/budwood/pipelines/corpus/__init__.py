"""Text to tokens."""

from budwood.pipelines.corpus.pipeline import create_pipeline

__all__ = ["create_pipeline"]
