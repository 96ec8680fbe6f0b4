"""The figures of the report: one table of section, drawing, data and caption."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report."""

    section: str
    """Heading of the section that ends with the figure."""
    drawing: str
    """A function of this package, which is imported when it draws: to list figures needs no plotly."""
    needs: tuple[str, ...]
    """Datasets that the drawing takes, in its order."""
    caption: str
    """What to look at."""
    own_name: str = ""
    """Of one of several figures of a drawing."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further arguments of the drawing."""

    @property
    def name(self) -> str:
        """Its own, or that of the drawing."""
        return self.own_name or self.drawing.partition(".")[2]

    @property
    def dataset(self) -> str:
        """The name of the figure in the catalog; Kedro reserves dots for namespaces."""
        return f"figure_{self.name}"

    def draw(self, data: Mapping[str, Any]) -> "go.Figure":
        """Return the figure, drawn from datasets by name."""
        module, function = self.drawing.split(".")
        drawing: Callable[..., go.Figure] = getattr(import_module(f"budwood.reporting.{module}"), function)
        return drawing(*(data[name] for name in self.needs), **self.options)


def _curves(name: str, caption: str, options: Mapping[str, str]) -> Figure:
    """Return one of the figures of held-out curves."""
    return Figure("Training", "result_figures.training_curves", ("curves", "savings", "ledger"), caption, name, options)


FIGURES = (
    Figure(
        "Results",
        "result_figures.perplexity_by_arm",
        ("results",),
        "Lower is better. Bars: one unpaired standard error. Dashed: the teacher.",
    ),
    _curves(
        "training_curves_tokens",
        "Bands: one standard error over sequences. Dotted: final loss of random_init. Star: an arm reaches it.",
        {"x": "tokens"},
    ),
    _curves(
        "training_curves_flops", "The same losses against the cost of training, without the search.", {"x": "flops"}
    ),
    _curves(
        "training_perplexity_tokens",
        "The same curves as perplexity: the exponential of the loss.",
        {"x": "tokens", "y": "perplexity"},
    ),
    _curves(
        "training_perplexity_flops",
        "Perplexity against the cost of training, without the search.",
        {"x": "flops", "y": "perplexity"},
    ),
    _curves(
        "training_perplexity_flops_with_search",
        "Perplexity against the cost of training, shifted by that of the search.",
        {"x": "flops_with_search", "y": "perplexity"},
    ),
    _curves(
        "training_curves_flops_with_search",
        "The same losses; every curve is shifted right by the cost of its search. Random weights need none.",
        {"x": "flops_with_search"},
    ),
    Figure(
        "Training",
        "result_figures.training_losses",
        ("curves",),
        "The training objective. Distillation has another objective, so compare only arms without a teacher.",
    ),
    Figure(
        "Savings",
        "result_figures.savings_by_ledger",
        ("savings",),
        "Above the dotted line the arm was cheaper than random_init. Each ledger includes the one before it.",
    ),
    Figure(
        "Selection",
        "selection.probe_losses",
        ("probe_curves", "selections"),
        "The thick line is the selected space of the bin.",
    ),
    Figure(
        "Selection",
        "selection.probe_losses",
        ("probe_curves", "selections"),
        "The same curves as perplexity.",
        "probe_perplexity",
        {"y": "perplexity"},
    ),
    Figure(
        "Tasks",
        "result_figures.tasks_by_arm",
        ("tasks",),
        "Higher is better. Bars: one unpaired standard error. Dashed: the teacher. Dotted: guessing.",
    ),
    Figure(
        "Speed and memory",
        "result_figures.speed_and_memory",
        ("speeds",),
        "Bars: quartiles over repeats. Dashed: the teacher.",
    ),
    Figure(
        "Search",
        "search_figures.winners_by_variant",
        ("winners",),
        "On text that no search read, with 95% intervals. The title says when finalists were compared; what is "
        "exported has had no training.",
    ),
    Figure(
        "Search",
        "search_figures.winner_layers",
        ("winners", "teacher_record"),
        "Layers of the teacher by rank; gaps are dropped layers.",
    ),
    Figure(
        "Search",
        "search_figures.elite_sizes",
        ("histories", "teacher_record"),
        "Grey: the range over all candidates. Where layers differ, means over the kept layers.",
    ),
    Figure(
        "Search",
        "search_figures.search_trajectory",
        ("histories",),
        "Open points were dropped before they had read all the text. Faint lines separate generations.",
    ),
    Figure(
        "Search",
        "search_figures.search_sizes",
        ("histories", "search_spaces"),
        "Shaded: the bin. Open points were dropped before they had read all the text.",
    ),
    Figure(
        "Search",
        "search_figures.draws_and_elites",
        ("histories",),
        "What the search adds to random draws. A dropped draw is at its loss on the text that it read.",
    ),
    Figure(
        "Search spaces",
        "search_figures.parameter_spread",
        ("space_samples", "search_spaces"),
        "A bin with a small share of a uniform sample is hard to hit by chance.",
    ),
    Figure(
        "What it cost",
        "result_figures.flops_by_stage",
        ("ledger",),
        "Cost of each variant; 'shared' costs serve several variants.",
    ),
)


def drawable(datasets: Collection[str]) -> tuple[Figure, ...]:
    """Return the figures whose data a study has."""
    return tuple(figure for figure in FIGURES if set(figure.needs) <= set(datasets))
