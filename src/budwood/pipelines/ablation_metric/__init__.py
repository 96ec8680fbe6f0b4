"""Compare what searches are guided by."""

from budwood.pipelines.ablation_metric.pipeline import create_pipeline

__all__ = ["create_pipeline"]
