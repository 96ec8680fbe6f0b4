"""Compare settings of distillation."""

from budwood.pipelines.ablation_kd_grid.pipeline import create_pipeline

__all__ = ["create_pipeline"]
