"""The paper's ablations, each a pipeline of its own."""

from budwood.pipelines.ablations.pipeline import PREFIX, create_pipelines

__all__ = ["PREFIX", "create_pipelines"]
