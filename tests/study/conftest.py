"""One of every stage, of a tiny teacher and a little text."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from budwood.arch.selection import LayerSelection, Selection
from budwood.corpus.packing import PackedCorpus, tokenize_and_pack
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.card import CardSource, Measurement
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute, choose_compute
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
from budwood.study.search import EvolveSubnets
from budwood.study.settings import BinSettings
from budwood.study.stage import Stage
from budwood.study.teacher import RankComponents, VerifyTeacher
from budwood.study.text import PackText, Windows
from budwood.study.training import CacheTeacher, Start, TrainArm
from budwood.study.vocabulary import TrimVocabulary
from budwood.subnet.settings import Ordering, SpaceSettings
from budwood.training.job import TrainingJob
from budwood.training.settings import ArmSettings, DistillationSettings, Engine, Schedule

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SCHEDULE = Schedule(tokens=64, sequence_length=8, global_batch=2, micro_batch=1)
SPACE = SpaceSettings(layerwise=False)
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


@dataclass(frozen=True)
class Materials:
    """A teacher and text."""

    teacher: Checkpoint
    tokens: PackedCorpus
    compute: Compute = field(default_factory=lambda: choose_compute("cpu", "float32"))


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
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, directory=folder / "tokens", progress=False)
    return Materials(fetch_teacher(TeacherSettings(random=SIZES), folder).checkpoint, tokens)


@pytest.fixture
def stages(materials: Materials) -> list[Stage]:
    """Return one of every stage."""
    teacher, tokens, compute = materials.teacher, materials.tokens, materials.compute

    def windows(split: str) -> Windows:
        return Windows(tokens=tokens, split=split, length=8, count=2)

    corpus = CorpusSettings(sources={"one": SourceSettings(path="text.txt", splits={"train": 0.5, "validation": 0.5})})
    heavy = {"importance": {"channels": torch.ones(3)}, "space": SPACE, "compute": compute, "batch_size": 2}
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
    taught = ArmSettings(learning_rate=0.1, distillation=DistillationSettings(loss="sampled"))
    return [
        PackText(
            sources=[{"path": "text.txt"}],
            seed=1,
            tokenizer="words",
            vocab_size=257,
            teacher=teacher,
            corpus=corpus,
            root=Path(),
        ),
        RankComponents(
            teacher=teacher, calibration=windows("calibration"), elimination=1, compute=compute, batch_size=2
        ),
        EvaluateTeacher(teacher=teacher, tokens=tokens, length=8, reported={"validation": 2}, compute=compute),
        EvolveSubnets(
            teacher=teacher,
            selection=windows("selection"),
            bin_=BinSettings(fraction=0.5),
            search=SearchSettings(),
            calibration=windows("calibration"),
            **heavy,
        ),
        ChooseWinner(
            teacher=teacher,
            calibration=windows("calibration"),
            choice=windows("choice"),
            finalists=(FINALIST,),
            training=BriefTraining(schedule=SCHEDULE, learning_rate=0.1, heldout=1, engine=Engine()),
            searched=Searched(**SEARCHED),
            **heavy,
        ),
        ExportSubnet(
            cut=teacher,
            teacher_record=record,
            corpus_fingerprint="text",
            winner=WINNER,
            space=SPACE,
            sources=[CardSource(name="one", license="MIT", attribution="", dataset=None)],
        ),
        CertifyTrained(
            model=teacher,
            record=RECORD,
            subnet=CERTIFICATE,
            proven_on=windows("choice"),
            teacher_record=record,
            sources=[CardSource(name="one", license="MIT")],
            measured=[Measurement(metric="loss", value=1.0, unit="nats", data="one", when="now")],
        ),
        TrainArm(
            arm="distilled",
            start=Start(initialisation="subnet", checkpoint=teacher),
            settings=taught,
            schedule=SCHEDULE,
            tokens=tokens,
            heldout=1,
            teacher=teacher,
            compute=compute,
            engine=Engine(),
        ),
        CacheTeacher(
            teacher=teacher,
            tokens=tokens,
            settings=taught.distillation,
            schedule=SCHEDULE,
            compute=compute,
            batch_size=2,
        ),
        ScoreRun(
            run_name="distilled", model=teacher, record=RECORD, tokens=tokens, length=8, validation=2, compute=compute
        ),
        ScoreProbe(model=teacher, record=RECORD, choice=windows("choice"), compute=compute, batch_size=2),
        AskModel(
            model_name="teacher",
            model=teacher,
            questions="some",
            tasks=("heldout",),
            limit=None,
            bos_token_id=None,
            compute=compute,
            folder=Path("questions"),
            evaluation=EvaluationSettings(),
        ),
        VerifyTeacher(teacher=teacher),
        TrimVocabulary(teacher=teacher, counts=torch.ones(257, dtype=torch.int64), size=256),
        CheckOrder(
            teacher=teacher,
            importance={"channels": torch.ones(3)},
            ordering=Ordering(),
            windows=windows("selection"),
            compute=compute,
            batch_size=2,
        ),
        CheckStart(arm="distilled", seed=1, start=teacher, certificate="prompts", compute=compute),
        OverfitBatch(run_facts="distilled", student=teacher.architecture, job=JOB),
        ContinuePrompts(
            model_name="distilled",
            model=teacher,
            tokens=tokens,
            teacher=(Sample(model="teacher", prompt="a", text="b"),),
            compute=compute,
        ),
    ]
