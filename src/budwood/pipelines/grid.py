"""Which (bin, space) variants exist; the shape of the pipelines follows the parameters."""

import os
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.hooks import hook_impl
from kedro.framework.project import settings
from kedro.pipeline import Pipeline

from budwood.parameters import SELECTED, ProjectParameters, expand_presets, read_parameters

PROJECT = Path(__file__).parents[3]

Variant = tuple[str, str]
"""A bin and a space."""

SEARCH_INPUTS = {"teacher", "teacher_record", "importance", "tokens", "workspace"}
"""Datasets that the searches and exports of all variants share."""

_current: dict[str, ProjectParameters] = {}


class ParametersHook:
    """Validates all parameters of the environment before anything else, and remembers their grid."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Read the parameters, with what the command line changed in them; nodes get presets spelt out.

        Raises:
            ValueError: they are not valid.
        """
        raw = context.config_loader["parameters"]
        _current["parameters"] = read_parameters(raw)
        context.config_loader["parameters"] = expand_presets(raw)


def current_parameters() -> ProjectParameters:
    """Return the parameters of the session, or those of `KEDRO_ENV` where there is no session (Kedro-Viz)."""
    if "parameters" not in _current:
        environment = os.getenv("KEDRO_ENV")
        loader = OmegaConfigLoader(str(PROJECT / settings.CONF_SOURCE), env=environment, **settings.CONFIG_LOADER_ARGS)
        return read_parameters(loader["parameters"])
    return _current["parameters"]


def wants_teacher_cache() -> bool:
    """Return whether the arm under the teacher reads what the teacher has said once."""
    distillation = current_parameters().arms.distilled.distillation
    return distillation is not None and distillation.teacher == "cached"


def wants_probes() -> bool:
    """Return whether spaces are probed, and only the best of each bin is trained in full."""
    return current_parameters().protocol.probe_tokens is not None


def has_reference(bin_name: str) -> bool:
    """Return whether a bin names the architecture at its centre, which is then trained beside the sub-networks."""
    return current_parameters().bins.root[bin_name].reference is not None


def run_names(arm: str) -> list[str]:
    """Return the names of an arm's runs, one for every seed: the arm's own, then `<arm>_seed_<number>`."""
    first, *others = current_parameters().protocol.seeds(current_parameters().schedule)
    del first
    return [arm, *(f"{arm}_seed_{seed}" for seed in others)]


def searched_variants() -> list[Variant]:
    """Return every (bin, space) of the grid."""
    return current_parameters().grid.variants()


def trained_variants() -> list[Variant]:
    """Return what gets all arms: every (bin, space), or (bin, "selected") where probes choose the space."""
    if not wants_probes():
        return searched_variants()
    return [(bin_name, SELECTED) for bin_name in current_parameters().grid.root]


def for_each_variant(stages: Pipeline, shared: set[str], variants: list[Variant]) -> Pipeline:
    """Repeat a pipeline in the namespace `subnets.<bin>.<space>` of some variants.

    The nodes' `params:bin` and `params:space` become the variant's; all other parameters are shared.

    Args:
        stages: nodes of one variant.
        shared: datasets that all variants share.
        variants: see `searched_variants` and `trained_variants`.
    """
    return sum((_variant(stages, shared, bin_name, space) for bin_name, space in variants), Pipeline([]))


def _variant(stages: Pipeline, shared: set[str], bin_name: str, space: str) -> Pipeline:
    return Pipeline(
        stages,
        namespace=f"subnets.{bin_name}.{space}",
        inputs=shared,
        parameters=parameters_of(stages, bin_name, space),
        tags=[bin_name, space],
    )


def parameters_of(stages: Pipeline, bin_name: str, space: str) -> dict[str, str]:
    """Return the parameters of some stages by the names that they have for one variant."""
    own = {"params:bin": f"params:bins.{bin_name}", "params:space": f"params:spaces.{space}"}
    return {name: own.get(name, name) for name in stages.inputs() if name.startswith("params:")}
