"""The pretrained model, described and measured."""

from budwood.pipelines.teacher.pipeline import create_pipeline

__all__ = ["create_pipeline"]
