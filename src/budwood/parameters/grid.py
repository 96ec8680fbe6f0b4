"""Parameter bins, search spaces, and which of them are combined."""

from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, RootModel, model_validator
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.servable import Engine
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture
from budwood.models.rotary import Rope
from budwood.parameters.teacher import ModelSizes
from budwood.records.strict import Strict
from budwood.subnet.compensate import Compensation
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import LayerScore, OrderedTeacher, Ordering, OrderingKind, open_ordered


class BinParameters(Strict):
    """A parameter bin, in one of three ways: a fraction of the teacher, a centre, or its bounds."""

    fraction: float | None = Field(default=None, gt=0, le=1)
    """Centre as a share of the teacher's parameters."""
    center: int | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Relative half-width around the centre."""
    low: int | None = Field(default=None, gt=0)
    high: int | None = Field(default=None, gt=0)
    reference: ModelSizes | None = None
    """The model at the centre, by which the paper charges a search and counts a saving. It is trained from random
    weights as the arm `reference_init`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bounds = self.low is not None or self.high is not None
        if sum([self.fraction is not None, self.center is not None, bounds]) != 1:
            raise ValueError("give exactly one of `fraction`, `center`, or both `low` and `high`")
        if bounds:
            if self.low is None or self.high is None:
                raise ValueError("give both `low` and `high`")
            ParameterBin(self.low, self.high)
        return self

    def parameter_bin(self, teacher_parameters: int) -> ParameterBin:
        """Return the bin for a teacher of a size."""
        if self.low is not None and self.high is not None:
            return ParameterBin(self.low, self.high)
        center = self.center if self.center is not None else (self.fraction or 0) * teacher_parameters
        return ParameterBin.around(center, self.tolerance)


class SpaceParameters(Strict):
    """A search space and the way its members are cut."""

    granularity: Granularity = "coarse"
    """`coarse` takes the first entries of every axis, `fine` any of them."""
    layerwise: bool
    """Whether every layer has sizes of its own."""
    alignment: int = Field(default=1, ge=1)
    """Hidden and MLP widths are multiples of this."""
    native_only: bool = False
    """Only sub-networks that stock Hugging Face classes express."""
    servable: tuple[Engine, ...] = ()
    """Only sub-networks that these engines serve: `vllm`, `llama.cpp`."""
    ordering: OrderingKind = "activation"
    """`activation`: first means most important on calibration text; `magnitude`: by the weights alone; `native`: the
    teacher's own order, as in the paper."""
    layer_score: LayerScore = "elimination"
    """What layers are ranked by: `elimination`, the order in which they are left out one by one, always the one without
    which the loss is lowest; `change`, the normalised square error of leaving the layer out; `influence`, 1 - cosine of
    input and output."""
    rope: Rope = "preserve"
    """`preserve`: kept rotary pairs keep their frequencies; `rebuild`: as in the paper's reference code."""
    score_gain: bool = True
    """Whether attention scores get the gain that the missing rotary pairs took; needs `rope: preserve`."""
    singular_values: bool = True
    """Whether values are turned into their singular basis, except under `ordering: native`."""
    compensation: Compensation | None = None
    """Closed-form corrections of the exported sub-network; see `budwood.subnet.compensate.Compensation`. `{}` makes
    all of them."""

    @model_validator(mode="after")
    def _native_layers_are_alike(self) -> Self:
        if self.native_only and self.layerwise:
            raise ValueError("native_only needs layerwise: false, stock classes give all layers the same sizes")
        return self

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

    def ordered_teacher(self, folder: Path, importance: dict[str, Tensor]) -> OrderedTeacher:
        """Return the teacher in the order in which this space takes its components."""
        ordering = Ordering(
            by=self.ordering,
            layer_score=self.layer_score,
            rope=self.rope,
            score_gain=self.score_gain,
            singular_values=self.singular_values,
        )
        return open_ordered(folder, ordering, Importance.from_tensors(importance))


class Bins(RootModel[dict[str, BinParameters]]):
    """Bins by name."""

    model_config = ConfigDict(frozen=True)


class Spaces(RootModel[dict[str, SpaceParameters]]):
    """Search spaces by name."""

    model_config = ConfigDict(frozen=True)


class Grid(RootModel[dict[str, list[str]]]):
    """For every bin, the spaces to search in it; an environment takes a bin of the base away by giving it null."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_was_taken_away(cls, data: Any) -> Any:
        return {name: spaces for name, spaces in data.items() if spaces is not None} if isinstance(data, dict) else data

    def variants(self) -> list[tuple[str, str]]:
        """Return all (bin, space) pairs."""
        return [(bin_name, space) for bin_name, spaces in self.root.items() for space in spaces]
