"""How sub-networks are searched and cut; imports no torch."""

from typing import Literal, Self

from pydantic import Field, model_validator

from budwood.arch.servable import ServingEngine
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture
from budwood.models.settings import Rope
from budwood.records.strict import Strict

OrderingKind = Literal["activation", "magnitude", "native"]
LayerScore = Literal["elimination", "change", "influence"]

_ORDERING_OF: dict[str, OrderingKind] = {"importance": "activation", "magnitude": "magnitude"}
"""The order by the scores that a fitness adds up."""

STEPS = ("norms", "neurons", "channels", "heads", "layers", "pairs", "refit")
"""Names of the corrections."""


class Compensation(Strict):
    """Which corrections are made, and how strongly regressions are shrunk; a ridge is relative to unit variance."""

    norms: bool = True
    """Norms that lose entries get the gain that those took; needs an ordering by activation."""
    neurons: bool = True
    """Removed neurons are predicted from kept ones."""
    channels: bool = True
    """Removed channels of the residual stream are predicted from kept ones."""
    heads: bool = True
    """Removed heads and value dimensions are predicted from kept ones."""
    layers: bool = True
    """Runs of dropped layers become a linear map; not where outputs are normalised before they are added."""
    pairs: bool = True
    """Every head group keeps its own rotary pairs, turned at frequencies that all share; not where one norm weights
    the dimensions of all heads alike."""
    refit: bool = False
    """What attention and MLPs read and write is fitted, on the child's own activations, to what its stream lacks of the
    teacher's; not where outputs are normalised before they are added. Candidates of a search are compared without it:
    it takes a pass of teacher and child over calibration text."""
    neuron_ridge: float = Field(default=0.3, gt=0)
    """Of `neurons`."""
    channel_ridge: float = Field(default=0.3, gt=0)
    """Of `channels`."""
    head_ridge: float = Field(default=0.1, gt=0)
    """Of `heads`."""
    layer_ridge: float = Field(default=0.3, gt=0)
    """Of `layers`."""
    refit_ridge: float = Field(default=1.0, gt=0)
    """Of `refit`."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the corrections that are made."""
        return tuple(name for name in STEPS if getattr(self, name))

    @property
    def regresses(self) -> bool:
        """Whether a correction follows from activations on calibration text."""
        return self.neurons or self.channels or self.heads or self.layers


NO_CORRECTION = Compensation.model_validate(dict.fromkeys(STEPS, False))


class Ordering(Strict):
    """How a teacher is ordered, and what a cut of it corrects without any regression."""

    ordering: OrderingKind = "activation"
    """`activation`: first means most important on calibration text; `magnitude`: by the weights alone; `native`: the
    teacher's own order, as in the paper."""
    layer_score: LayerScore = "elimination"
    """What layers are ranked by: `elimination`, the order in which they are left out one by one, always the one without
    which logits stay nearest to the teacher's; `change`, the normalised square error of leaving the layer out;
    `influence`, 1 - cosine of input and output."""
    rope: Rope = "preserve"
    """`preserve`: kept rotary pairs keep their frequencies; `rebuild`: as in the paper's reference code."""
    score_gain: bool = True
    """Whether attention scores get the gain that the missing rotary pairs took; needs `rope: preserve`."""
    singular_values: bool = True
    """Whether values are turned into their singular basis, except under `ordering: native`."""

    @property
    def needs_statistics(self) -> bool:
        """Whether the order of components, or the gain of cut norms, follows from activations on calibration text."""
        return self.ordering == "activation"

    @property
    def needs_elimination(self) -> bool:
        """Whether layers are ranked by leaving them out one by one."""
        return self.ordering == "activation" and self.layer_score == "elimination"


class MomentSettings(Ordering):
    """What decides the moments from which members of a space are corrected; spaces that agree on it share them."""

    granularity: Granularity
    """`coarse` takes the first entries of every axis, `fine` any of them: then any layers may be dropped."""
    compensation: Compensation
    """Those that follow from activations on calibration text."""


class SpaceSettings(Ordering):
    """A search space and the way its members are cut."""

    granularity: Granularity = "coarse"
    """`coarse` takes the first entries of every axis, `fine` any of them."""
    layerwise: bool
    """Whether every layer has sizes of its own."""
    alignment: int = Field(default=1, ge=1)
    """Hidden and MLP widths are multiples of this."""
    native_only: bool = False
    """Only sub-networks that stock Hugging Face classes express."""
    servable: tuple[ServingEngine, ...] = ()
    """Only sub-networks that these engines serve: `vllm`, `llama.cpp`."""
    compensation: Compensation | None = None
    """Closed-form corrections of the exported sub-network; `{}` makes all of them except the refit."""

    @model_validator(mode="after")
    def _native_layers_are_alike(self) -> Self:
        if self.native_only and self.layerwise:
            raise ValueError("native_only needs layerwise: false, stock classes give all layers the same sizes")
        return self

    def require_scored_by(self, fitness: str) -> None:
        """Check that a search by a fitness can score what a member keeps.

        Raises:
            ValueError: the fitness scores components that have another order here.
        """
        own = _ORDERING_OF.get(fitness)
        if own is not None and self.ordering not in {"native", own}:
            raise ValueError(
                f"fitness {fitness} scores a teacher in its own order or in that of the same scores: ordering is "
                f"{self.ordering}, and must be native or {own}"
            )

    @property
    def moments(self) -> MomentSettings | None:
        """What decides the moments from which members are corrected; none where no regression is made."""
        if self.compensation is None or not self.compensation.regresses:
            return None
        shared = {name: getattr(self, name) for name in MomentSettings.model_fields}
        # It follows from activations of its own.
        return MomentSettings(**shared | {"compensation": self.compensation.model_copy(update={"refit": False})})

    def search_space(self, teacher: Architecture) -> SearchSpace:
        """Return the space of a teacher.

        Args:
            teacher: its layers by rank.
        """
        return SearchSpace(
            teacher=teacher,
            granularity=self.granularity,
            layerwise=self.layerwise,
            alignment=self.alignment,
            native_only=self.native_only,
            servable=self.servable,
        )
