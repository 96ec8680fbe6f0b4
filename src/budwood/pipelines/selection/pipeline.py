"""Per bin, where there are probes: probe_scores of its spaces -> selection, subnet; then selections, probe_curves."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import SELECTED
from budwood.pipelines.grid import searched_variants, trained_variants, wants_probes
from budwood.pipelines.selection.nodes import choose_space, gather_selections


def create_pipeline() -> Pipeline:
    """Choose the space with which every bin goes on to the full training."""
    if not wants_probes():
        return Pipeline([])
    nodes = [_choosing(bin_name) for bin_name, _ in trained_variants()]
    parts = _parts(trained_variants(), "selection") | _parts(searched_variants(), "probe_curve")
    gathering = Node(
        gather_selections, parts, ["selections", "probe_curves"], name="gather_selections", namespace="subnets"
    )
    return Pipeline([*nodes, gathering], tags="selection")


def _choosing(bin_name: str) -> Node:
    variants = [variant for variant in searched_variants() if variant[0] == bin_name]
    target = f"subnets.{bin_name}.{SELECTED}"
    return Node(
        choose_space,
        _parts(variants, "probe_scores") | _parts(variants, "subnet"),
        [f"{target}.selection", f"{target}.subnet"],
        name="choose_space",
        namespace=target,
        tags=[bin_name, SELECTED],
    )


def _parts(variants: list[tuple[str, str]], what: str) -> dict[str, str]:
    return {f"{bin_name}__{space}__{what}": f"subnets.{bin_name}.{space}.{what}" for bin_name, space in variants}
