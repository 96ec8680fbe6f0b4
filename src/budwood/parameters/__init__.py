"""All parameters of an environment: what `conf/*/parameters.yml` may contain, checked together before anything runs."""

from budwood.parameters.project import PAPER, ProjectParameters, expand_presets, read_parameters

__all__ = ["PAPER", "ProjectParameters", "expand_presets", "read_parameters"]
