"""Learning rates that short runs have chosen -> markdown."""

from collections.abc import Sequence

from budwood.records.names import Variant
from budwood.records.training import Score, SweptRates
from budwood.reporting.markup import markdown_table, once


def swept_rates(arms: Sequence[Score]) -> str:
    """Return what short runs found at each learning rate; empty where all rates were given."""
    first = {(arm.bin, arm.space, arm.arm): arm.sweep for arm in arms if arm.sweep is not None}
    if not first:
        return ""
    columns = {
        "variant": once([str(Variant(bin_name, space)) for bin_name, space, _ in first]),
        "arm": [arm for *_, arm in first],
        "loss after a short run": [_tried(swept) for swept in first.values()],
        "note": [swept.doubts for swept in first.values()],
        "untrained": [f"{swept.untrained:.2f}" for swept in first.values()],
    }
    note = "Nats per token on the text of the choice, by peak learning rate; the best is taken."
    return f"\n\n### Learning rates\n\n{note}\n\n{markdown_table(columns, 4)}"


def _tried(swept: SweptRates) -> str:
    """Return all rates with their losses, the best in bold."""
    tried = [
        f"{rate:g}: {'diverges' if loss is None else f'{loss:.2f}'}"
        for rate, loss in zip(swept.rates, swept.losses, strict=True)
    ]
    place = swept.rates.index(swept.best)
    return ", ".join([*tried[:place], f"**{tried[place]}**", *tried[place + 1 :]])
