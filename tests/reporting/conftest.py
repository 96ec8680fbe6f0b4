"""A made-up study in the shapes of `budwood.records`: its numbers are invented, not measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from reports import once
from strategies import SMOLLM2_135M

from budwood.evaluation.statistics import summarise
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.names import ARMS
from budwood.records.search import Winner
from budwood.records.teacher import HeldOutText, IntakeRecord, SourceLoss, TeacherEvaluation, TeacherRecord
from budwood.records.training import Score
from budwood.reporting import ledger, tables
from budwood.reporting.benchmarks import speeds_table, tasks_table
from budwood.reporting.figures import drawable
from budwood.reporting.findings import Findings

NUM_SEQUENCES = {"wikipedia": 24, "addresses": 40}
TEACHER_LOSS = {"wikipedia": 2.9, "addresses": 3.6}
START_LOSS = {"random_init": 10.8, "subnet_init": 7.4, "distilled": 7.4}
END_LOSS = {"random_init": 7.5, "subnet_init": 4.6, "distilled": 4.5}
SCHEDULE = {"global_batch": 4, "sequence_length": 256, "shape": "cosine", "seed": 42}
NUM_STEPS, TOKENS_PER_STEP, FLOPS_PER_TOKEN = 20, 1024, 4.5e8


@dataclass(frozen=True)
class Study:
    """Every record that the report is made from."""

    teacher: TeacherRecord
    corpus_counts: pd.DataFrame
    search_spaces: pd.DataFrame
    space_samples: pd.DataFrame
    histories: pd.DataFrame
    arms: list[dict[str, Any]]
    teacher_losses: dict[str, list[float]]
    text: HeldOutText
    curves: pd.DataFrame
    ledger: list[dict[str, Any]]
    downstream: list[dict[str, Any]]
    efficiency: list[dict[str, Any]]
    certificates: pd.DataFrame
    samples: list[Sample]

    @property
    def scores(self) -> list[Score]:
        """The arms as records."""
        return [Score.model_validate(arm) for arm in self.arms]

    @property
    def evaluation(self) -> TeacherEvaluation:
        """The losses of the teacher, as a record."""
        losses = {"perplexity": _teacher_losses(), "losses": self.teacher_losses, "text": self.text, "costs": ()}
        return TeacherEvaluation.model_validate(losses)

    @property
    def answers(self) -> list[Downstream]:
        """What the models answer, as records."""
        return [Downstream.model_validate(record) for record in self.downstream]

    @property
    def measured(self) -> list[Efficiency]:
        """The speeds, as records."""
        return [Efficiency.model_validate(record) for record in self.efficiency]

    @property
    def costs(self) -> list[Cost]:
        """The ledger, as records."""
        return [Cost.model_validate(entry) for entry in self.ledger]

    @property
    def results(self) -> pd.DataFrame:
        """The results table."""
        return tables.results_table(self.scores, self.evaluation, self.teacher)

    @property
    def saved(self) -> pd.DataFrame:
        """What the arms saved."""
        return once("saved", (self.curves, self.ledger), lambda: ledger.savings(self.curves, self.costs)).copy()

    @property
    def findings(self) -> Findings:
        """What the report is written from."""
        own = ("search_spaces", "corpus_counts", "certificates", "winners", "samples")
        return Findings(
            arms=self.scores,
            ledger=self.costs,
            teacher_record=self.teacher,
            teacher_evaluation=self.evaluation,
            results=self.results,
            savings=self.saved,
            tasks=tasks_table(self.answers),
            speeds=speeds_table(self.measured),
            **{name: getattr(self, name) for name in own},
        )

    @property
    def winners(self) -> list[Winner]:
        """What the searches found: the first one's lead is certain, no other has one."""
        return [
            Winner.model_validate(
                _WINNER
                | {
                    "bin": row.bin,
                    "space": row.space,
                    "description": "12 layers x 448 wide",
                    "num_parameters": 33_630_000,
                    "num_evaluations": 60,
                    "fitness": "perplexity",
                    "selection_loss": 6.25,
                    "choice_loss": 5.5,
                    "choice_interval": (5.25, 5.75),
                    "lead": None if place else 0.125,
                    "lead_interval": None if place else (0.0625, 0.1875),
                    "finalist_tokens": 0,
                    "search_flops": 2.5e12,
                    "paper_flops": 6.5e17,
                }
            )
            for place, row in enumerate(self.search_spaces.itertuples())
        ]

    @property
    def data(self) -> dict[str, object]:
        """What the figures are drawn from, by dataset."""
        tables_ = {"results": self.results, "savings": self.saved, "tasks": tasks_table(self.answers)}
        measured = {"speeds": speeds_table(self.measured), "winners": self.winners, "teacher_record": self.teacher}
        measured["ledger"] = self.costs
        own = ("curves", "histories", "search_spaces", "space_samples")
        return tables_ | measured | {name: getattr(self, name) for name in own}

    @cached_property
    def figures(self) -> dict[str, go.Figure]:
        """Every figure by name."""
        data = self.data
        return {figure.name: figure.draw(data) for figure in drawable(data)}


@pytest.fixture(scope="session")
def make_study() -> Callable[[int], Study]:
    """Return the maker of made-up studies."""
    return build_study


@pytest.fixture(scope="session")
def study(make_study: Callable[[int], Study]) -> Study:
    """Return a made-up study of three variants."""
    return make_study(3)


def build_study(num_variants: int) -> Study:
    """Return a study with this many variants, the same at every call."""
    rng = np.random.default_rng(0)
    bins = ("quarter", "half", "third", "tenth", "most")
    variants = [(bins[i // 2], ("coarse_uniform", "coarse_layerwise")[i % 2]) for i in range(num_variants)]
    centers = dict(zip(bins, (33.6e6, 67.3e6, 44.8e6, 13.5e6, 100e6), strict=True))
    hardness = {source: rng.normal(TEACHER_LOSS[source], 0.4, number) for source, number in NUM_SEQUENCES.items()}
    arms = [_arm(rng, variant, arm, centers, hardness) for variant in variants for arm in ARMS]
    ledger_entries = [_entry("calibration", ("", ""), "", 2.1e12), _entry("evaluation", ("", ""), "", 1.2e12)]
    for variant in variants:
        ledger_entries += [_entry("search", variant, "", 2.4e13), _entry("compensation", variant, "", 3e12)]
        for arm in ARMS:
            ledger_entries += [_entry("training", variant, arm, 9e12), _entry("heldout", variant, arm, 8e11)]
        ledger_entries.append(_entry("teacher", variant, "distilled", 5.9e12))
    return Study(
        teacher=_teacher(),
        corpus_counts=pd.DataFrame(
            [(split, source, 120, 65_536) for split in ("train", "validation") for source in NUM_SEQUENCES],
            columns=["split", "source", "documents", "tokens"],
        ),
        search_spaces=pd.DataFrame([_space(variant, centers) for variant in variants]),
        space_samples=pd.DataFrame(
            {
                "space": np.repeat(["coarse_uniform", "coarse_layerwise"], 500),
                "num_parameters": np.concatenate([rng.uniform(1e6, 134e6, 500), rng.normal(60e6, 8e6, 500)]).astype(
                    int
                ),
            }
        ),
        histories=pd.concat([_history(rng, variant) for variant in variants], ignore_index=True),
        arms=arms,
        teacher_losses={source: losses.tolist() for source, losses in hardness.items()},
        text=HeldOutText(
            tokens_per_sequence=256, bytes={name: [1100] * number for name, number in NUM_SEQUENCES.items()}
        ),
        curves=pd.concat([_curve(variant, arm) for variant in variants for arm in ARMS], ignore_index=True),
        ledger=ledger_entries,
        downstream=[_answers(rng, ("", ""), "SmolLM2-135M-Instruct")]
        + [_answers(rng, variant, arm) for variant in variants for arm in ARMS],
        efficiency=[_speed(variant) for variant in variants],
        certificates=pd.DataFrame([_certificate(variant) for variant in variants]),
        samples=[
            Sample(model="SmolLM2-135M-Instruct", prompt="1. The river", text=" rises *here*."),
            Sample(bin="quarter", space="coarse_uniform", model="distilled", prompt="1. The river", text=" a\nb"),
        ],
    )


def _teacher() -> TeacherRecord:
    return TeacherRecord(
        name="SmolLM2-135M-Instruct",
        model_type="llama",
        num_parameters=134_515_008,
        revision="package 0.1.2",
        fingerprint="c0ffee",
        license="apache-2.0",
        attribution="",
        num_token_ids=49_152,
        intake=IntakeRecord(
            num_tokens=48, dtype="float32", tolerance=1e-4, reading_difference=0.0, cut_difference=1e-6
        ),
        architecture=SMOLLM2_135M,
    )


def _teacher_losses() -> list[SourceLoss]:
    return [
        SourceLoss(split=split, source=source, tokens=12_288, **summarise([loss - 0.5, loss + 0.5], [1100] * 2, 256))
        for split in ("selection", "validation")
        for source, loss in TEACHER_LOSS.items()
    ]


def _space(variant: tuple[str, str], centers: dict[str, float]) -> dict[str, object]:
    low, high = round(0.95 * centers[variant[0]]), round(1.05 * centers[variant[0]])
    size = {"smallest": 16_000, "largest": 134_515_008, "log10_members": 9.4, "log10_members_paper": 11.2}
    return {"bin": variant[0], "space": variant[1], "low": low, "high": high, "limits": "", **size}


def _certificate(variant: tuple[str, str]) -> dict[str, object]:
    where = {"bin": variant[0], "space": variant[1], "num_parameters": 33_630_000, "fingerprint": "f00"}
    native = variant[1] == "coarse_uniform"
    name = "LlamaForCausalLM" if native else "LayerwiseLlamaForCausalLM"
    opens = {"transformers": "yes: loaded again", "vllm": "yes: 618 agree", "llama.cpp": "no: heads differ by layer"}
    return where | {"largest_logit_difference": 2e-6, "native": native, "class": name} | opens


def _history(rng: np.random.Generator, variant: tuple[str, str]) -> pd.DataFrame:
    number = np.arange(60)
    losses = 7 + 4 * np.exp(-number / 25) + rng.exponential(0.8, number.size)
    frame = pd.DataFrame({"evaluation": number, "epoch": number // 20, "loss": losses, "perplexity": np.exp(losses)})
    origins = np.where(number < 20, "initial", np.array(["mutation", "crossover", "random"])[number % 3])
    about = {"origin": origins, "num_parameters": 33_630_000 + 1000 * (number % 7), "seconds": 0.4, "flops": 4e11}
    read = {"finished": number % 3 > 0, "num_sequences": np.where(number % 3 > 0, 8, 2), "tokens": 2048}
    # Half of the channels and heads, a third of the neurons, and two thirds of the layers or one more.
    heads = {"num_attention_heads": 6.0, "num_key_value_heads": 3.0, "head_dim": 32.0, "intermediate_size": 512.0}
    genes = {"hidden_size": 288, "num_hidden_layers": 20 + number % 2, "key": "k", **heads}
    return frame.assign(bin=variant[0], space=variant[1], **about, **genes, **read)


def _selection(num_layers: int) -> dict[str, object]:
    layers = [{"layer": layer, "groups": 3, "queries": 2, "pairs": 16, "neurons": 512} for layer in range(num_layers)]
    return {"hidden": 288, "layers": layers}


_WINNER = {
    "selection": _selection(20),
    "parameter_bin": (1, 2),
    "kept_channels": (),
    "kept_layers": (),
    "corrections": (),
    "finalists": (),
    "costs": (),
    "proof": {
        "num_parameters": 33_630_000,
        "num_parameters_closed_form": 33_630_000,
        "parameter_bin": (1, 2),
        "largest_logit_difference": 0.0,
        "tolerance": 1e-4,
        "probe_lengths": (1,),
        "probe": {"input_ids": (1,), "columns": (1,), "logits": ((0.0,),)},
        "dtypes": {"float32": 1},
        "native": True,
        "class": "LlamaForCausalLM",
    },
}


def _arm(
    rng: np.random.Generator,
    variant: tuple[str, str],
    arm: str,
    centers: dict[str, float],
    hardness: dict[str, np.ndarray],
) -> dict[str, Any]:
    worse = END_LOSS[arm] - 3.3
    losses = {source: (base + worse + rng.normal(0, 0.1, base.size)).tolist() for source, base in hardness.items()}
    tokens = NUM_STEPS * TOKENS_PER_STEP
    return {
        "bin": variant[0],
        "space": variant[1],
        "arm": arm,
        "num_parameters": round(centers[variant[0]] * 1.02),
        "tokens": tokens,
        "learning_rate": 3e-3 if arm == "random_init" else 6e-4,
        "seconds": 71.5,
        "student_flops": tokens * FLOPS_PER_TOKEN,
        "teacher_flops": tokens * 2.9e8 if arm == "distilled" else 0.0,
        "heldout_flops": 8e11,
        "heldout_tokens": 20_480,
        "device": "cpu",
        "precision": "float32",
        "losses": losses,
        "tokens_per_sequence": 256,
        "seed": 42,
        "run": arm,
        "steps": NUM_STEPS,
        "tokens_per_step": TOKENS_PER_STEP,
        "steady_steps": 0,
        "made_with": {
            "schedule": SCHEDULE | {"tokens": tokens - 1},
            "corpus": "9f2c",
            "start": f"{arm == 'random_init'} of {variant}",
            "teacher": None,
            "heldout": 4,
            "code": "c0de",
        },
        "folder": "/".join(("data/06_models", *variant, arm)),
    }


def _curve(variant: tuple[str, str], arm: str) -> pd.DataFrame:
    step = np.arange(NUM_STEPS + 1)
    loss = END_LOSS[arm] + (START_LOSS[arm] + 0.8 - END_LOSS[arm]) * np.exp(-step / 4)
    frame = pd.DataFrame({"step": step, "tokens": step * TOKENS_PER_STEP, "train_loss": loss})
    flops_per_token = FLOPS_PER_TOKEN + (2.9e8 if arm == "distilled" else 0)
    measured = np.where(step % 5 == 0, loss, np.nan)
    return frame.assign(
        bin=variant[0], space=variant[1], arm=arm, flops=frame["tokens"] * flops_per_token, heldout_loss=measured
    )


def _answers(rng: np.random.Generator, variant: tuple[str, str], model: str) -> dict[str, Any]:
    tasks = []
    for task, metric, chance in (("last_word", "acc", None), ("continuation", "acc_norm", 0.25)):
        answers = rng.integers(0, 2, 20).astype(float)
        error = float(answers.std(ddof=1) / np.sqrt(20))
        asked = {"task": task, "version": 1.0, "num_fewshot": 0, "metric": metric, "num_questions": 20}
        found = {"value": float(answers.mean()), "standard_error": error, "chance": chance}
        spent = {"metrics": {}, "num_cut": 0, "tokens": 0, "flops": 0.0, "seconds": 0.0}
        tasks.append({**asked, **found, **spent, "answers": answers.tolist()})
    where = {"bin": variant[0], "space": variant[1], "device": "cpu", "precision": "float32", "limit": None}
    return where | {"model": model, "harness": "lm_eval 0.4.13", "tasks": tasks}


def _speed(variant: tuple[str, str]) -> dict[str, Any]:
    def model(share: float) -> dict[str, object]:
        times = {"prefill_seconds": [share, share * 1.5], "decode_seconds": [share / 10, share / 10]}
        memory = {"weight_bytes": round(5e8 * share), "working_bytes": 1_000_000, "kv_bytes_per_token": 46_080}
        return {"num_parameters": round(134_515_008 * share), **times, **memory}

    settings = {"prompt_tokens": 128, "new_tokens": 8, "batch_size": 1}
    where = {"device": "cpu (2 threads)", "precision": "float32", "threads": 2, "torch": "2"}
    where |= {"tokens": 0, "flops": 0.0, "seconds": 0.0}
    models = {"teacher": model(1.0), "subnet": model(0.25)}
    return {"bin": variant[0], "space": variant[1], **settings, **where, "models": models}


def _entry(stage: str, variant: tuple[str, str], arm: str, flops: float) -> dict[str, Any]:
    where = {"bin": variant[0], "space": variant[1], "arm": arm}
    return {"stage": stage, **where, "flops": flops, "tokens": 20_480, "seconds": 65.0}
