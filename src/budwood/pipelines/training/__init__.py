"""Train every arm of every variant."""

from budwood.pipelines.training.pipeline import create_distillation, create_pretraining

__all__ = ["create_distillation", "create_pretraining"]
