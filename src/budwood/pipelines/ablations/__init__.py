"""The paper's ablations, each a pipeline of its own."""

from budwood.pipelines.ablations.pipeline import create_pipelines

__all__ = ["create_pipelines"]
