"""One of every stage, of a tiny teacher and a little text."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import tokenize_and_pack

from budwood.arch.selection import LayerSelection, Selection
from budwood.corpus.ingestion import deciding_sources
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.card import CardSource, Measurement
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.records.certificate import Certificate, LogitProbe, Proof
from budwood.records.evaluation import Sample
from budwood.records.search import Finalist, Searched, Winner
from budwood.records.teacher import IntakeRecord, TeacherRecord
from budwood.records.training import MadeWith, TrainingRecord
from budwood.search.settings import SearchSettings
from budwood.study.choice import BriefTraining, ChooseWinner
from budwood.study.evaluation import AskModel, ContinuePrompts, EvaluateTeacher, ScoreProbe, ScoreRun
from budwood.study.export import CertifyTrained, ExportSubnet
from budwood.study.gates import CheckOrder, CheckStart, OverfitBatch
from budwood.study.moments import GatherMoments
from budwood.study.search import EvolveSubnets
from budwood.study.settings import BinSettings, MeasurementSettings
from budwood.study.stage import Stage, Workspace
from budwood.study.sweep import SweepRates, SweepText
from budwood.study.teacher import RankComponents, VerifyTeacher
from budwood.study.text import Materials, PackText
from budwood.study.training import CacheTeacher, Start, TrainArm
from budwood.study.vocabulary import TrimVocabulary
from budwood.subnet.settings import Compensation, Ordering, SpaceSettings
from budwood.training.job import TrainingJob
from budwood.training.settings import ArmSettings, DistillationSettings, Engine, RateSweep, Schedule

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SCHEDULE = Schedule(tokens=64, sequence_length=8, global_batch=2, micro_batch=1)
WORDS = Schedule(tokens=3840, sequence_length=16, global_batch=4, micro_batch=4, num_evaluations=1)
"""Of `run`: sixty steps."""
MEASUREMENT = MeasurementSettings(
    length=8,
    calibration=2,
    elimination=1,
    selection=2,
    choice=2,
    validation=2,
    heldout=1,
    batch_size=2,
    device="cpu",
    precision="float32",
)
SPACE = SpaceSettings(layerwise=False)
IMPORTANCE = {"channels": torch.ones(3)}
TAUGHT = ArmSettings(learning_rate=0.1, distillation=DistillationSettings(loss="sampled"))
SELECTION = Selection(
    hidden=range(8), layers=(LayerSelection(layer=0, groups=(0,), queries=(0,), pairs=range(4), neurons=range(8)),)
)
RECORD = TrainingRecord(
    arm="subnet_init",
    seed=42,
    tokens=64,
    steps=4,
    tokens_per_step=16,
    steady_steps=0,
    learning_rate=0.1,
    student_flops=1.0,
    teacher_flops=0.0,
    heldout_flops=1.0,
    heldout_tokens=8,
    seconds=1.0,
    device="cpu",
    precision="float32",
    made_with=MadeWith(schedule={}, corpus="", start="", teacher=None, heldout=1, code=""),
)
JOB = TrainingJob(
    arm="distilled",
    model_folder="model",
    initialisation="checkpoint",
    teacher_folder="teacher",
    corpus_folder="corpus",
    output_folder="output",
    learning_rate=0.1,
    schedule=SCHEDULE,
    heldout_windows=1,
)
SEARCHED = {"fitness": "perplexity", "parameter_bin": (1, 9), "num_evaluations": 3, "paper_flops": 1.0}
INTAKE = IntakeRecord(num_tokens=1, dtype="float32", tolerance=0.1, reading_difference=0.0, cut_difference=0.0)
FINALIST = Finalist(selection=SELECTION, description="small", num_parameters=5, selection_loss=2.0)
PROOF = Proof(
    num_parameters=5,
    num_parameters_closed_form=5,
    parameter_bin=(1, 9),
    largest_logit_difference=0.0,
    tolerance=1e-4,
    probe_lengths=(4,),
    probe=LogitProbe(input_ids=(1,), columns=(1,), logits=((0.5,),)),
    dtypes={"float32": 5},
    native=True,
    model_class="X",
)
CERTIFICATE = Certificate(
    **dict(PROOF),
    fingerprint="f",
    teacher="t",
    teacher_revision="r",
    teacher_fingerprint="tf",
    corpus_fingerprint="c",
    ordering="activation",
    rope="preserve",
    compensation=(),
    kept_channels=tuple(range(8)),
    kept_layers=(0,),
)
WINNER = Winner(
    **SEARCHED,
    selection=SELECTION,
    description="small",
    num_parameters=5,
    selection_loss=2.0,
    kept_channels=tuple(range(8)),
    kept_layers=(0,),
    corrections=(),
    proof=PROOF,
    choice_loss=2.0,
    choice_interval=(1.0, 3.0),
    lead=None,
    lead_interval=None,
    finalists=(FINALIST,),
    finalist_tokens=0,
    costs=(),
)


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    folder = tmp_path_factory.mktemp("materials")
    rng = np.random.default_rng(0)
    rows = [
        (split, "one", "".join(rng.choice(list("abcde "), 90)))
        for split in ("train", "calibration", "selection", "choice", "validation")
        for _ in range(6)
    ]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=folder / "tokens", progress=False)
    return Materials(fetch_teacher(TeacherSettings(random=SIZES), folder).checkpoint, tokens, MEASUREMENT)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(folder=tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def run(materials, workspace: Workspace) -> TrainArm:
    """Return a training of the tiny teacher's weights on text that a model can learn: words in a fixed order."""
    rng = np.random.default_rng(0)
    words = ["graft ", "prune ", "bud ", "scion ", "sap "]
    rows = [
        (split, "one", "".join(words[(start + place) % 5] for place in range(40)))
        for split in ("train", "calibration", "selection", "choice", "validation")
        for start in rng.integers(5, size=6)
    ]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"]).assign(
        text=lambda table: [f"{place} {text}" for place, text in enumerate(table["text"])]
    )
    folder = workspace.folder / "tokens"
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=folder, progress=False)
    return TrainArm(
        arm="subnet_init",
        start=Start(initialisation="checkpoint", checkpoint=materials.teacher),
        settings=ArmSettings(learning_rate=0.03),
        schedule=WORDS,
        tokens=tokens,
        heldout=1,
        teacher=materials.teacher,
        compute=materials.compute,
        engine=Engine(compile_loss="off"),
    )


@pytest.fixture
def stages(materials: Materials) -> list[Stage]:
    """Return one of every stage."""
    return [*of_teacher(materials), *of_search(materials), *of_training(materials), *of_evaluation(materials)]


def of_teacher(materials: Materials) -> list[Stage]:
    """Return the stages that take a teacher in."""
    corpus = CorpusSettings(sources={"one": SourceSettings(path="text.txt", splits={"train": 0.5, "validation": 0.5})})
    return [
        PackText(
            sources=deciding_sources(corpus),
            seed=1,
            tokenizer="words",
            vocab_size=257,
            teacher=materials.teacher,
            corpus=corpus,
            root=Path(),
        ),
        VerifyTeacher(teacher=materials.teacher),
        TrimVocabulary(teacher=materials.teacher, counts=torch.ones(257, dtype=torch.int64), size=256),
        RankComponents.of(materials, eliminates=True),
        CheckOrder.of(materials, IMPORTANCE, Ordering()),
        EvaluateTeacher.of(materials),
    ]


def of_search(materials: Materials) -> list[Stage]:
    """Return the stages that find a sub-network and export it."""
    teacher = materials.teacher
    record = TeacherRecord(
        name="teacher",
        revision="local",
        model_type="llama",
        num_parameters=9,
        fingerprint=teacher.fingerprint,
        license="none",
        attribution="",
        num_token_ids=257,
        architecture=teacher.architecture,
        intake=INTAKE,
    )
    described = {"teacher_record": record, "sources": [CardSource(name="one", license="MIT")]}
    brief = BriefTraining(schedule=SCHEDULE, learning_rate=0.1, heldout=1, engine=Engine())
    measured = Measurement(metric="loss", value=1.0, unit="nats", data="one", when="now")
    return [
        EvolveSubnets.of(materials, IMPORTANCE, BinSettings(fraction=0.5), SPACE, SearchSettings()),
        GatherMoments(
            teacher=teacher,
            importance=IMPORTANCE,
            settings=SPACE.model_copy(update={"compensation": Compensation()}).moments,
            calibration=materials.windows("calibration"),
            compute=materials.compute,
            batch_size=2,
        ),
        ChooseWinner.of(materials, IMPORTANCE, (FINALIST,), Searched(**SEARCHED), SPACE, brief),
        ExportSubnet(cut=teacher, corpus_fingerprint="text", winner=WINNER, space=SPACE, **described),
        CertifyTrained(
            model=teacher,
            record=RECORD,
            subnet=CERTIFICATE,
            proven_on=materials.windows("choice"),
            measured=[measured],
            **described,
        ),
    ]


def of_training(materials: Materials) -> list[Stage]:
    """Return the stages of a training."""
    teacher, tokens, compute = materials.teacher, materials.tokens, materials.compute
    return [
        TrainArm(
            arm="distilled",
            start=Start(initialisation="subnet", checkpoint=teacher),
            settings=TAUGHT,
            schedule=SCHEDULE,
            tokens=tokens,
            heldout=1,
            teacher=teacher,
            compute=compute,
            engine=Engine(),
        ),
        CacheTeacher.of(materials, TAUGHT.distillation, SCHEDULE),
        SweepRates(
            run_facts="distilled",
            settings=RateSweep(tokens=16),
            text=SweepText(schedule=SCHEDULE, choice=materials.windows("choice")),
            start=teacher,
            student=teacher.architecture,
            compute=compute,
            job=JOB,
        ),
        CheckStart(start=teacher, certificate="prompts", compute=compute),
        OverfitBatch(run_facts="distilled", student=teacher.architecture, job=JOB),
    ]


def of_evaluation(materials: Materials) -> list[Stage]:
    """Return the stages that measure models."""
    teacher, tokens, compute = materials.teacher, materials.tokens, materials.compute
    return [
        ScoreRun(
            run_name="distilled", model=teacher, record=RECORD, tokens=tokens, length=8, validation=2, compute=compute
        ),
        ScoreProbe(model=teacher, record=RECORD, choice=materials.windows("choice"), compute=compute, batch_size=2),
        AskModel(
            model_name="teacher",
            model=teacher,
            bos_token_id=None,
            compute=compute,
            folder=Path("questions"),
            evaluation=EvaluationSettings(),
        ),
        ContinuePrompts(
            model_name="distilled",
            model=teacher,
            tokens=tokens,
            teacher=(Sample(model="teacher", prompt="a", text="b"),),
            compute=compute,
        ),
    ]
