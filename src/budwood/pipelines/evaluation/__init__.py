"""Measure all arms on the same held-out text."""

from budwood.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
