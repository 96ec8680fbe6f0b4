"""Train every (bin, space) on few tokens."""

from budwood.pipelines.probe.pipeline import create_pipeline

__all__ = ["create_pipeline"]
