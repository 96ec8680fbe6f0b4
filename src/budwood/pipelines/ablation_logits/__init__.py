"""Compare what a student sees of its teacher."""

from budwood.pipelines.ablation_logits.pipeline import create_pipeline

__all__ = ["create_pipeline"]
