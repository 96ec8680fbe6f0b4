"""What tools that cut models make of SmolLM2-135M: a half and a quarter of it, untrained and distilled.

Every tool gets one teacher, one bin of parameters and the same 40 Wikipedia sequences of 256 tokens to calibrate on,
and does what its documentation recommends; none gets a correction of ours. All students are then trained by one code:
they are distilled from 64 draws of the teacher per token, which is asked once for all (0.2 CE + 0.8 KL), read the same
text in the same order, and have the peak rate that a sweep over 8,192 tokens finds best for them on text of its own.
Losses are nats per token of 32 validation sequences that nothing was chosen on; differences are paired by sequence.

* `budwood`: a search with the library's defaults; `budwood-corrected`: the same, but its finalists are not refitted;
* `paper`: Algorithm 1 on the teacher's own order with rebuilt rotary embeddings, for about the FLOPs of ours;
* `torch-pruning`, `optipfair`, `mergekit`: see `peers_cut.py`;
* `whittle`: its random search with the evaluation tokens of ours, and its own export; see `whittle_search.py`.

Usage: python benchmarks/peers_quality.py [--sizes quarter half] [--tools ...] [--tokens 0 50176 200704]. Cuts, rates
and rows that are finished are files in the cache folder and are not made again; a killed training continues from its
checkpoint. All rows of a number of tokens come before those of the next. Tools install about 1.2 GB each. `--small`
runs our own arms on a tiny random teacher, which shows that all of this works.

Rows of a Markdown table are printed as they are finished. Last line: a JSON object with the losses of every tool by
number of tokens under `half` and `quarter` (null where a row is missing), and `less_budwood` (difference and standard
error), `learning_rates`, `cuts` (parameters, FLOPs of finding and cutting, what was done) and `reasons` for what is
missing.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuts import HALF
from peers import CUT_INSTALLS, WHITTLE_SEARCH_INSTALLS, make_environment, run_script
from quickstart import CACHE_DIR, MEASUREMENT, PAPER_ORDER, TEACHER, WIKIPEDIA, spent, windows
from torch import Tensor

import budwood
from budwood import BinSettings, Checkpoint, Compensation, DistillationSettings, Schedule, SearchSettings, SpaceSettings
from budwood.arch.spec import LayerSpec
from budwood.models.checkpoint import model_config
from budwood.models.losses import sequence_losses
from budwood.records.files import write_atomically
from budwood.study.defaults import SEARCH, SPACE

OWN = ("budwood", "budwood-corrected", "paper")
TOOLS = (*OWN, *CUT_INSTALLS, "whittle")
SPACES = {
    "budwood": SPACE,
    "budwood-corrected": SPACE.model_copy(update={"compensation": Compensation(refit=False)}),
    "paper": SpaceSettings(layerwise=False, **PAPER_ORDER.model_dump()),
}
DISTILLATION = DistillationSettings(loss="sampled", teacher="cached")
MAX_PARITY_NATS = 1e-3
HEADER = (
    "| size | tool | parameters | to cut | tokens | rate | nats | less budwood |\n|---|---|--:|--:|--:|--:|--:|--:|\n"
)

Row = dict[str, Any]
Installs = Sequence[Sequence[str]]
Rows = dict[tuple[str, str, int], Row | None]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    bins: dict[str, BinSettings]
    searches: dict[str, SearchSettings]
    measurement: budwood.MeasurementSettings
    tokens: tuple[int, ...]
    """That students are trained on."""
    sweep_tokens: int
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    """Of a sweep, which begins with the two in the middle, the lower ones, and continues while an outermost is best."""
    tools: tuple[str, ...] = TOOLS

    def schedule(self, tokens: int, seed: int = 0) -> Schedule:
        """Return how a student is trained."""
        length, batch = self.measurement.length, 2
        return Schedule(
            tokens=tokens,
            sequence_length=length,
            global_batch=batch,
            micro_batch=batch,
            warmup_steps=min(8, tokens // (4 * batch * length)),
            num_evaluations=1,
            checkpoint_steps=25,
            seed=seed,
        )


PAPER = SearchSettings(epochs=1, sampling="rejection", constraint="rejection", num_finalists=1)
FULL = Scale(
    bins={
        "quarter": BinSettings(low=31_947_314, high=35_310_190),
        "half": BinSettings(low=HALF.low, high=HALF.high),
    },
    searches={"budwood": SEARCH, "budwood-corrected": SEARCH, "paper": PAPER},
    measurement=MEASUREMENT.model_copy(update={"calibration": 40}),
    tokens=(0, 50_176, 200_704),
    sweep_tokens=8_192,
)
FEW = {"population": 4, "epochs": 1, "num_balanced": 0, "num_elites": 2, "num_mutants": 2, "num_crossovers": 1}
SMALL = Scale(
    bins={"quarter": BinSettings(low=20_000, high=30_000), "half": BinSettings(low=40_000, high=60_000)},
    searches={
        name: search.model_copy(update=FEW | {"num_randoms": 1, "num_finalists": 1})
        for name, search in FULL.searches.items()
    },
    measurement=budwood.MeasurementSettings(
        length=32, calibration=4, elimination=1, selection=3, choice=2, validation=2, heldout=1
    ),
    tokens=(0, 256),
    sweep_tokens=128,
    rates=(1e-3, 3e-3),
    tools=OWN,
)
SMALL_TEACHER = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Asked:
    """How a tool is asked for its cut."""

    environment: str
    installs: Installs
    script: str
    arguments: Row


@dataclass(frozen=True)
class Bench:
    """The study that all tools share, and the folder of what is finished."""

    study: budwood.Study
    cache_dir: Path
    scale: Scale
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def folder(self, size: str, tool: str) -> Path:
        """Return where a tool's results are kept."""
        folder = self.cache_dir / "peers_quality" / size / tool
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def losses(self, model: Checkpoint, split: str) -> list[float]:
        """Return the loss of every sequence of a split, in float32."""
        text = self._text(split)
        losses: list[float] = sequence_losses(model.load_model(torch.float32), text).tolist()
        return losses

    def cut(self, size: str, tool: str) -> Row:
        """Return what a tool cuts out, and what it took."""
        folder = self.folder(size, tool)
        return remembered(folder / "cut.json", lambda: (self._own if tool in OWN else self._peer)(size, tool, folder))

    def _own(self, size: str, tool: str, folder: Path) -> Row:
        search, bins = self.scale.searches[tool], {size: self.scale.bins[size]}
        found = self.study.search(bins, space=SPACES[tool], settings=search)[size]
        assert found.history is not None, "a search has candidates"
        took = spent(self.study, found, ordered=tool != "paper")
        shutil.copytree(found.checkpoint.folder, folder / "model", dirs_exist_ok=True)
        return {
            "how": f"{len(found.history)} candidates; {found.winner.description}",
            "num_parameters": found.winner.num_parameters,
            "evaluation_tokens": took["evaluation_tokens"],
            "flops": took["flops"],
        }

    def _peer(self, size: str, tool: str, folder: Path) -> Row:
        asked = self._whittle(size, folder) if tool == "whittle" else self._cutter(tool, folder)
        parameter_bin, output = self.scale.bins[size], folder / "model"
        output.mkdir(exist_ok=True)
        python = make_environment(asked.environment, asked.installs, self.cache_dir)
        arguments = asked.arguments | {
            "teacher": self.study.teacher.folder,
            "output": output,
            "num-threads": torch.get_num_threads(),
        }
        options = [f"--{name}={value}" for name, value in arguments.items()]
        script = Path(__file__).with_name(asked.script)
        measured = run_script(python, script, [*options, "--bin", str(parameter_bin.low), str(parameter_bin.high)])
        if "winner" in measured:
            measured |= {"sizes": measured["winner"], "how": f"best of {measured['evaluations']} random draws"}
        if "reason" not in measured:
            self._check(open_weights(self.study.teacher, measured["sizes"], output), measured)
        return measured

    def _check(self, model: Checkpoint, measured: Row) -> None:
        """Check that a tool's cut is worth here what it is worth there."""
        split, name = ("validation", "nats") if "nats" in measured else ("selection", "selection_nats")
        here, there = float(np.mean(self.losses(model, split))), measured[name]
        if not abs(here - there) <= MAX_PARITY_NATS:
            raise RuntimeError(f"{model.folder} has {here:.6f} nats, and had {there:.6f} where it was cut")

    def _cutter(self, tool: str, folder: Path) -> Asked:
        texts = {split: self._file(split, folder) for split in ("calibration", "selection")}
        return Asked(tool, CUT_INSTALLS[tool], "peers_cut.py", {"tool": tool, **texts})

    def _whittle(self, size: str, folder: Path) -> Asked:
        arguments = {
            "selection": self._file("selection", folder),
            "heldout": self._file("validation", folder),
            "teacher-nats": float(np.mean(self.losses(self.study.teacher, "validation"))),
            "tokens": self.cut(size, "budwood")["evaluation_tokens"],
            "history": folder / "history.jsonl",
            "dtype": self.study.materials.compute.precision,
        }
        return Asked("whittle-search", WHITTLE_SEARCH_INSTALLS, "whittle_search.py", arguments)

    def _text(self, split: str) -> Tensor:
        measurement = self.scale.measurement
        return windows(self.study, split, getattr(measurement, split), measurement.length)

    def _file(self, split: str, folder: Path) -> Path:
        file = folder / f"{split}.npy"
        np.save(file, self._text(split).numpy())
        return file

    def rate(self, size: str, tool: str) -> float:
        """Return the peak learning rate that is best for a tool's cut."""
        nats: dict[float, float] = {}
        ladder = self.scale.rates
        rates = list(ladder[len(ladder) // 2 - 1 : len(ladder) // 2 + 1])
        while rates:
            for rate in rates:
                nats[rate] = self._swept(size, tool, rate)
            best = ladder.index(min(nats, key=lambda rate: nats[rate]))
            rates = [rate for rate in ladder[max(0, best - 1) : best + 2] if rate not in nats]
        return ladder[best]

    def _swept(self, size: str, tool: str, rate: float) -> float:
        def sweep() -> Row:
            # Another order of the text than the runs have.
            try:
                model = self._trained(size, tool, rate, self.scale.schedule(self.scale.sweep_tokens, seed=1000))
            except FloatingPointError:
                return {"nats": math.inf}
            return {"nats": float(np.mean(self.losses(model, "choice")))}

        nats = float(remembered(self.folder(size, tool) / f"rate-{rate:g}.json", sweep)["nats"])
        sys.stderr.write(f"{size} {tool} at {rate:g}: {nats:.3f} nats on the text of the choice\n")
        return nats

    def _trained(self, size: str, tool: str, rate: float, schedule: Schedule) -> Checkpoint:
        start = Checkpoint.open(self.folder(size, tool) / "model")
        return self.study.distill(start, schedule=schedule, learning_rate=rate, settings=DISTILLATION).model

    def row(self, size: str, tool: str, tokens: int) -> Row | None:
        """Return the losses of a tool's student after some tokens; None where there is none."""
        cut = self.cut(size, tool)
        if "reason" in cut:
            self.reasons[size, tool] = cut["reason"]
            return None

        def measure() -> Row:
            rate = self.rate(size, tool) if tokens else None
            model = (
                Checkpoint.open(self.folder(size, tool) / "model")
                if rate is None
                else self._trained(size, tool, rate, self.scale.schedule(tokens))
            )
            return {"rate": rate, "losses": self.losses(model, "validation")}

        return remembered(self.folder(size, tool) / f"{tokens}.json", measure)


def remembered(file: Path, make: Callable[[], Row]) -> Row:
    """Return what a file has, after making it where there is none."""
    if not file.is_file():
        write_atomically(file, json.dumps(make()))
    return dict(json.loads(file.read_text(encoding="utf-8")))


def open_weights(teacher: Checkpoint, sizes: dict[str, int], folder: Path) -> Checkpoint:
    """Return weights of a tool as a checkpoint, with the teacher's tokenizer and all of its config that is no size.

    `LlamaForCausalLM` refuses heads that do not divide the hidden size; where a tool leaves such, the config is of a
    class that computes the same and takes them.
    """
    own = dict(sizes)
    hidden, depth = own.pop("hidden_size"), own.pop("num_hidden_layers")
    architecture = replace(teacher.architecture, hidden_size=hidden, layers=(LayerSpec(**own),) * depth)
    config = model_config(teacher.config, architecture, [teacher.config["rope_parameters"]] * depth)
    config.save_pretrained(folder)
    teacher.load_tokenizer().save_pretrained(folder)
    return Checkpoint.open(folder)


def paired(row: Row, base: Row | None) -> tuple[float, float] | None:
    """Return the mean difference between two rows, and its standard error."""
    if base is None or row is base:
        return None
    differences = np.subtract(row["losses"], base["losses"])
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def line(bench: Bench, size: str, tool: str, tokens: int, rows: Rows) -> str:
    """Return a row of the table."""
    cut, row = bench.cut(size, tool), rows[size, tool, tokens]
    if row is None:
        return f"| {size} | {tool} | | | {tokens:,} | | | {bench.reasons[size, tool]} |\n"
    less = paired(row, rows.get((size, "budwood", tokens)))
    return (
        f"| {size} | {tool} | {cut['num_parameters'] / 1e6:.1f}M | {cut['flops'] / 1e12:.1f} TFLOP | {tokens:,} "
        f"| {row['rate'] or ''} | {np.mean(row['losses']):.3f} "
        f"| {'' if less is None else f'{less[0]:+.3f} ± {less[1]:.3f}'} |\n"
    )


def summary(bench: Bench, rows: Rows, tokens: Sequence[int]) -> Row:
    """Return the figures of all rows."""
    result: Row = {size: {} for size in reversed(bench.scale.bins)}
    for size in bench.scale.bins:
        of = {tool: [rows.get((size, tool, each)) for each in tokens] for tool in bench.scale.tools}
        result[size] = {
            tool: [None if row is None else round(float(np.mean(row["losses"])), 3) for row in each]
            for tool, each in of.items()
        }
        ours = of["budwood"]
        less = {tool: [row and paired(row, base) for row, base in zip(of[tool], ours, strict=True)] for tool in of}
        result.setdefault("less_budwood", {})[size] = {
            tool: [each and [round(part, 3) for part in each] for each in less[tool]]
            for tool in of
            if tool != "budwood"
        }
        rates = {tool: [row["rate"] for row in each if row and row["rate"]] for tool, each in of.items()}
        result.setdefault("learning_rates", {})[size] = {tool: each[0] for tool, each in rates.items() if each}
        cuts = {tool: bench.cut(size, tool) for tool, each in of.items() if any(each)}
        result.setdefault("cuts", {})[size] = {
            tool: [cut["num_parameters"], float(f"{cut['flops']:.3g}"), cut["how"]] for tool, cut in cuts.items()
        }
    reasons = {" ".join(key): reason for key, reason in bench.reasons.items()}
    return {**result, "tokens": list(tokens), "reasons": reasons}


def open_bench(cache_dir: Path, *, small: bool) -> Bench:
    """Return the study with its text."""
    teacher, text = TEACHER, WIKIPEDIA
    if small:
        teacher = budwood.TeacherSettings(random=SMALL_TEACHER)
        text = budwood.SourceSettings(
            path=("package://encodings/cp*.py",),
            splits={"train": 0.4, "calibration": 0.15, "selection": 0.15, "choice": 0.15, "validation": 0.15},
        )
    scale = SMALL if small else FULL
    study = budwood.open_study(
        teacher,
        budwood.CorpusSettings(sources={"wikipedia": text}),
        folder=cache_dir / ("quickstart" if not small else "small"),
        measurement=scale.measurement,
        # To compile the loss takes longer than all of the small runs.
        engine=budwood.Engine(compile_loss="off" if small else "auto"),
    )
    return Bench(study, cache_dir, scale)


def main() -> None:
    """Make what is missing, print a row after the other, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(FULL.bins), choices=list(FULL.bins))
    parser.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    parser.add_argument("--tokens", nargs="+", type=int, default=FULL.tokens, choices=FULL.tokens)
    parser.add_argument("--small", action="store_true", help="a tiny random teacher, and our own arms alone")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    options = parser.parse_args()
    bench = open_bench(options.cache_dir, small=options.small)
    tools = [tool for tool in bench.scale.tools if tool in options.tools]
    tokens = bench.scale.tokens if options.small else tuple(sorted(options.tokens))
    rows: Rows = {}
    sys.stdout.write(HEADER)
    for each in tokens:
        for size in options.sizes:
            for tool in tools:
                rows[size, tool, each] = bench.row(size, tool, each)
                sys.stdout.write(line(bench, size, tool, each, rows))
                sys.stdout.flush()
    sys.stdout.write(json.dumps(summary(bench, rows, tokens)) + "\n")


if __name__ == "__main__":
    main()
