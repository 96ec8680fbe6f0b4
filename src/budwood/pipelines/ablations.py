"""What all ablations share: train variants under equal conditions, and tell how they compare."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from kedro.pipeline import Node, Pipeline

from budwood.arch.count import num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.perplexity import source_losses
from budwood.models.checkpoint import load_model
from budwood.parameters import AblationParameters, ArmParameters, MeasurementParameters, Place, with_tokens
from budwood.pipelines.arms import Start, Training
from budwood.pipelines.corpus import create_pipeline as corpus_pipeline
from budwood.pipelines.evolution.pipeline import search_stages
from budwood.pipelines.export.pipeline import export_stages
from budwood.pipelines.grid import SEARCH_INPUTS, current_parameters, for_each_variant
from budwood.pipelines.teacher.pipeline import create_pipeline as teacher_pipeline
from budwood.pipelines.tracking import run_of, track
from budwood.reporting.ablations import (
    TRAINED,
    Trained,
    ablation_page,
    ablation_table,
    losses_by_setting,
    losses_by_variant,
    setting_importances,
)
from budwood.training.settings import Engine, Schedule

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One thing that is compared."""

    folder: Path
    """The sub-network that training begins with."""
    arm: ArmParameters
    teacher: Path | None = None
    """Another one than the study's."""
    settings: Mapping[str, Any]
    """What was changed, for the table."""


def where_wanted(create: Callable[[AblationParameters], Pipeline]) -> Callable[[], Pipeline]:
    """Make the pipeline of an ablation that of the environment: empty where nothing is compared."""

    @wraps(create)
    def create_pipeline() -> Pipeline:
        ablations = current_parameters().ablations
        return Pipeline([]) if ablations is None else create(ablations)

    return create_pipeline


def prepared(places: list[Place]) -> Pipeline:
    """Return all that leads to the sub-networks of some bins and spaces: text, teacher, searches and exports."""
    variants = list(dict.fromkeys((place.bin, place.space) for place in places))
    stages = search_stages() + export_stages()
    searches = for_each_variant(stages, SEARCH_INPUTS, variants)
    # What only a whole study needs of these is left out.
    shared = (corpus_pipeline() + teacher_pipeline()).to_outputs("importance", "teacher_record")
    return shared + searches


def subnet_of(place: Place) -> str:
    """Return the dataset of a place's sub-network."""
    return f"subnets.{place.bin}.{place.space}.subnet"


def train_variants(ablation: str, training: Training, variants: Mapping[str, Variant]) -> list[Trained]:
    """Train every variant on the same sequences and measure it on the same validation sequences.

    A training that diverges is told as such, and the others go on.

    Args:
        ablation: names the folders of the runs.
        training: what all of them share.
        variants: by name.
    """
    return [_train(ablation, place, training, name, variant) for place, (name, variant) in enumerate(variants.items())]


def _train(ablation: str, place: int, training: Training, name: str, variant: Variant) -> Trained:
    own = training if variant.teacher is None else replace(training, teacher=variant.teacher)
    start = Start(initialisation="subnet", folder=variant.folder)
    facts: Trained = {
        "variant": name,
        "settings": dict(variant.settings),
        "status": TRAINED,
        "num_parameters": num_parameters(start.architecture),
        "tokens": 0,
        "student_flops": 0.0,
        "teacher_flops": 0.0,
        "losses": [],
    }
    try:
        with run_of(name):
            folder, record, _ = own.run(f"{ablation}-{place}", start, variant.arm)
            losses = _losses(folder, training, name)
            track({"validation_loss": float(np.mean(losses))}, record["steps"])
    except FloatingPointError as error:
        logger.warning("Ablation %s: %s", ablation, error)
        return facts | {"status": "its training diverged"}
    spent = {what: record[what] for what in ("tokens", "student_flops", "teacher_flops")}
    return facts | spent | {"losses": losses}  # type: ignore[return-value]


def _losses(folder: Path, training: Training, name: str) -> list[float]:
    measurement = training.measurement
    compute = measurement.compute()
    model = compute.place(load_model(folder, compute.dtype))
    windows = (measurement.length, measurement.validation)
    by_source = source_losses(model, training.tokens, "validation", windows, name)
    return [loss for source in sorted(by_source) for loss in by_source[source]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One ablation: what is compared, from which sub-networks, and what is told of it."""

    name: str
    title: str
    about: str
    """What is varied, in a sentence."""
    arm: str
    """How variants are trained, before they change anything."""
    subnets: Mapping[str, str]
    """Datasets of checkpoints by the name under which `choose` gets them."""
    choose: Callable[[AblationParameters, ArmParameters, dict[str, Path]], dict[str, Variant]]
    """Returns the variants by name."""
    settings: tuple[str, ...] = ()
    """Columns whose importance is told."""

    def pipeline(self) -> Pipeline:
        """Return the node that trains the variants and tells how they compare."""
        groups = ("ablations", "schedule", "measurement", "engine")
        inputs = {name: name for name in ("teacher", "tokens", "workspace")} | dict(self.subnets)
        inputs |= {group: f"params:{group}" for group in groups} | {"arm": f"params:arms.{self.arm}"}
        outputs = ["table", "figure", "page", *(["importances"] if self.settings else [])]
        # In the namespace of the sub-networks, whose datasets it reads.
        place = f"subnets.ablations.{self.name}"
        datasets = [f"{place}.{output}" for output in outputs]
        node = Node(self._node(), inputs, datasets, name=f"ablate_{self.name}", namespace=place)
        return Pipeline([node], tags="ablations")

    def _node(self) -> Callable[..., tuple[Any, ...]]:
        def node(  # noqa: PLR0913, PLR0917 - a node's arguments are its edges in the graph
            teacher: Path,
            tokens: PackedCorpus,
            ablations: AblationParameters,
            arm: ArmParameters,
            schedule: Schedule,
            measurement: MeasurementParameters,
            engine: Engine,
            workspace: Path,
            **subnets: Path,
        ) -> tuple[Any, ...]:
            training = Training(
                teacher=teacher,
                tokens=tokens,
                schedule=with_tokens(schedule, ablations.tokens),
                measurement=measurement,
                engine=engine,
                workspace=workspace,
            )
            variants = self.choose(ablations, arm, subnets)
            return self.tell(train_variants(self.name, training, variants))

        node.__name__ = f"ablate_{self.name}"
        node.__doc__ = f"{self.title}: train every variant alike, and tell how they compare."
        return node

    def tell(self, runs: list[Trained]) -> tuple[Any, ...]:
        """Return table, figure and page, and the importance of settings where it is asked for."""
        table = ablation_table(runs)
        if not self.settings:
            return table, losses_by_variant(self.title, table), ablation_page(self.title, self.about, table)
        importances = setting_importances(table, self.settings)
        figure = losses_by_setting(self.title, table, self.settings)
        return table, figure, ablation_page(self.title, self.about, table, importances), importances
