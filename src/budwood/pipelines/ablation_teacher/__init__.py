"""Compare teachers of one student."""

from budwood.pipelines.ablation_teacher.pipeline import create_pipeline

__all__ = ["create_pipeline"]
