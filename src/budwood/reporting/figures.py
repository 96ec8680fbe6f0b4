"""The figures of the report: one table of name, data, drawing, section and caption."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the report."""

    name: str
    needs: tuple[str, ...]
    """Datasets that the drawing takes, in its order."""
    drawing: str
    """A function of this package, which is imported when it draws: to list figures needs no plotly."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further arguments of the drawing."""
    section: str
    """Heading of the section that ends with the figure."""
    caption: str
    """What to look at."""

    @property
    def dataset(self) -> str:
        """The name of the figure in the catalog; Kedro reserves dots for namespaces."""
        return f"figure_{self.name}"

    def draw(self, data: Mapping[str, Any]) -> "go.Figure":
        """Return the figure, drawn from datasets by name."""
        module, function = self.drawing.split(".")
        drawing: Callable[..., go.Figure] = getattr(import_module(f"budwood.reporting.{module}"), function)
        return drawing(*(data[name] for name in self.needs), **self.options)


def _training(name: str, caption: str, **options: str) -> Figure:
    """Return one of the figures of held-out curves."""
    return Figure(
        name=name,
        needs=("curves", "savings"),
        drawing="result_figures.training_curves",
        options=options,
        section="Training",
        caption=caption,
    )


def _probes(name: str, caption: str, **options: str) -> Figure:
    """Return one of the figures of the curves of probes."""
    return Figure(
        name=name,
        needs=("probe_curves", "selections"),
        drawing="selection.probe_losses",
        options=options,
        section="Selection",
        caption=caption,
    )


FIGURES = (
    Figure(
        name="perplexity_by_arm",
        needs=("results",),
        drawing="result_figures.perplexity_by_arm",
        section="Results",
        caption="Lower is better. Bars: one unpaired standard error. Dashed: the teacher.",
    ),
    _training(
        "training_curves_tokens",
        "Bands: one standard error over sequences. Dotted: final loss of random_init. Star: an arm reaches it.",
        x="tokens",
    ),
    _training("training_curves_flops", "The same losses against the cost of training, without the search.", x="flops"),
    _training(
        "training_perplexity_tokens",
        "The same curves as perplexity: the exponential of the loss.",
        x="tokens",
        y="perplexity",
    ),
    _training(
        "training_perplexity_flops_with_search",
        "Perplexity against the cost of training, shifted by that of the search.",
        x="flops_with_search",
        y="perplexity",
    ),
    _training(
        "training_curves_flops_with_search",
        "The same losses; every curve but that of random_init is shifted right by the cost of its search.",
        x="flops_with_search",
    ),
    Figure(
        name="training_losses",
        needs=("curves",),
        drawing="result_figures.training_losses",
        section="Training",
        caption="The training objective. Distillation has another objective, so compare only arms without a teacher.",
    ),
    Figure(
        name="savings_by_ledger",
        needs=("savings",),
        drawing="result_figures.savings_by_ledger",
        section="Savings",
        caption="Above the dotted line the arm was cheaper than random_init. Each ledger includes the one before it.",
    ),
    _probes("probe_losses", "The thick line is the selected space of the bin."),
    _probes("probe_perplexity", "The same curves as perplexity.", y="perplexity"),
    Figure(
        name="tasks_by_arm",
        needs=("tasks",),
        drawing="result_figures.tasks_by_arm",
        section="Tasks",
        caption="Higher is better. Bars: one unpaired standard error. Dashed: the teacher. Dotted: guessing.",
    ),
    Figure(
        name="speed_and_memory",
        needs=("speeds",),
        drawing="result_figures.speed_and_memory",
        section="Speed and memory",
        caption="Bars: quartiles over repeats. Dashed: the teacher.",
    ),
    Figure(
        name="winners_by_variant",
        needs=("winners",),
        drawing="search_figures.winners_by_variant",
        section="Search",
        caption="The exported winners on text that their search never read, with 95 % intervals.",
    ),
    Figure(
        name="winner_layers",
        needs=("winners", "teacher_record"),
        drawing="search_figures.winner_layers",
        section="Search",
        caption="Layers of the teacher by rank; gaps are dropped layers.",
    ),
    Figure(
        name="elite_sizes",
        needs=("histories", "teacher_record"),
        drawing="search_figures.elite_sizes",
        section="Search",
        caption="Grey: the range over all candidates. Where layers differ, means over the kept layers.",
    ),
    Figure(
        name="search_trajectory",
        needs=("histories",),
        drawing="search_figures.search_trajectory",
        section="Search",
        caption="Open points were dropped before they had read all the text. Faint lines separate generations.",
    ),
    Figure(
        name="search_sizes",
        needs=("histories", "search_spaces"),
        drawing="search_figures.search_sizes",
        section="Search",
        caption="Shaded: the bin. Open points were dropped before they had read all the text.",
    ),
    Figure(
        name="draws_and_elites",
        needs=("histories",),
        drawing="search_figures.draws_and_elites",
        section="Search",
        caption="What the search adds to random draws. A dropped draw is at its loss on the text that it read.",
    ),
    Figure(
        name="parameter_spread",
        needs=("space_samples", "search_spaces"),
        drawing="search_figures.parameter_spread",
        section="Search spaces",
        caption="A bin with a small share of a uniform sample is hard to hit by chance.",
    ),
    Figure(
        name="flops_by_stage",
        needs=("ledger",),
        drawing="result_figures.flops_by_stage",
        section="What it cost",
        caption="Cost of each variant; 'shared' costs serve several variants.",
    ),
)


def drawable(datasets: Collection[str]) -> tuple[Figure, ...]:
    """Return the figures whose data a study has."""
    return tuple(figure for figure in FIGURES if set(figure.needs) <= set(datasets))
