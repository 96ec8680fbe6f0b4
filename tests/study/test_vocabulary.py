"""A study of a teacher with part of its vocabulary."""

from pathlib import Path

import numpy as np
import pytest
from teachers import tiny_teacher
from transformers import PreTrainedTokenizerFast
from words import make_tokenizer, train_tokenizer

from budwood.arch.count import forward_flops_per_token
from budwood.corpus.counting import count_training_tokens
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.corpus.split import assign_split, text_digest
from budwood.models.checkpoint import save_checkpoint
from budwood.models.settings import ModelSizes, TeacherSettings
from budwood.models.teacher import count_token_ids, describe_teacher
from budwood.search.settings import SearchSettings
from budwood.study.door import open_study
from budwood.study.settings import BinSettings, MeasurementSettings
from budwood.study.training import CacheTeacher
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.settings import DistillationSettings, Schedule

WORDS = ["the", "tree", "grew", "old", "wall", "garden", "river", "stone", "autumn", "spring", "counted", "apple"]
MEASUREMENT = MeasurementSettings(
    length=32, calibration=4, elimination=1, selection=2, choice=2, validation=2, heldout=2, device="cpu"
)
SEARCH = SearchSettings(
    population=3, epochs=1, num_elites=2, num_mutants=1, num_crossovers=1, num_randoms=1, num_finalists=1
)
SCHEDULE = Schedule(tokens=256, sequence_length=32, global_batch=4, micro_batch=4, num_evaluations=1)
SPLITS = {"train": 0.6, "calibration": 0.1, "selection": 0.1, "choice": 0.1, "validation": 0.1}
SIZE = 290


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, SourceSettings]:
    folder, draws = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for number in range(120):
        (folder / f"{number}.txt").write_text(" ".join(draws.choice(WORDS, 60)) + f" {number}")
    return {"words": SourceSettings(name="words", path=(str(folder),), splits=SPLITS)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    fast = train_tokenizer([" ".join([*WORDS, "bark", "gardens", "stones"])] * 3, 400)
    model = tiny_teacher("llama", tied=True, vocab_size=len(fast), bos_token_id=0, eos_token_id=0, pad_token_id=None)
    return save_checkpoint(model, fast, tmp_path_factory.mktemp("teacher"))


@pytest.mark.slow
def test_a_study_knows_only_the_smaller_teacher(teacher, texts, tmp_path):
    settings = TeacherSettings(model=str(teacher), vocabulary=SIZE)
    study = open_study(settings, texts, folder=tmp_path, measurement=MEASUREMENT)
    assert study.teacher.architecture == describe_teacher(settings)
    assert study.record.num_token_ids == study.teacher.architecture.vocab_size == count_token_ids(settings) == SIZE
    assert study.tokens.windows("train", 32).max() < SIZE
    space = SpaceSettings(layerwise=False, compensation=Compensation())
    half = BinSettings(fraction=0.7, tolerance=0.2)
    found = study.search({"half": half}, space=space, settings=SEARCH)["half"]
    assert found.checkpoint.config["vocab_size"] == len(found.checkpoint.load_tokenizer()) == SIZE
    # Live and cached, the teacher of a tail runs the head that it had.
    whole, losses = describe_teacher(TeacherSettings(model=str(teacher))), []
    for kind in ("live", "cached"):
        wanted = DistillationSettings(loss="topk_tail", top_k=16, teacher=kind)
        trained = study.distill(found.checkpoint, schedule=SCHEDULE, settings=wanted)
        losses.append(trained.curve["train_loss"].dropna().tolist())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    (cost,) = study.workspace.finish(CacheTeacher.of(study.materials, wanted, SCHEDULE)).costs
    assert cost.flops == cost.tokens * forward_flops_per_token(whole, context=32)


@pytest.mark.slow
def test_other_text_keeps_other_tokens(teacher, texts, tmp_path):
    settings = TeacherSettings(model=str(teacher), vocabulary=SIZE)
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("gardens stones bark " * (100 + number))
    other = {"stones": SourceSettings(name="stones", path=(str(tmp_path / "*.txt"),), splits=SPLITS)}
    tiny = MEASUREMENT.model_copy(update={"length": 8})
    found = []
    for sources in (texts, texts | other):
        study = open_study(settings, sources, folder=tmp_path / "study", measurement=tiny)
        found.append(study.teacher.load_tokenizer().get_vocab())
    assert found[0].keys() != found[1].keys()


def test_only_training_text_counts(teacher, texts):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(teacher)
    corpus = CorpusSettings(sources=texts)
    files = sorted(Path(texts["words"].path[0]).glob("*.txt"))
    training = [
        text
        for text in (file.read_text() for file in files)
        if assign_split(text_digest(text, corpus.seed), SPLITS) == "train"
    ]
    expected = np.zeros(len(tokenizer), dtype=np.int64)
    for text in training:
        np.add.at(expected, [*tokenizer(text).input_ids, tokenizer.eos_token_id], 1)
    assert count_training_tokens(corpus, tokenizer, Path()).tolist() == expected.tolist()


def test_no_more_text_counts_than_is_trained_on(tmp_path):
    """The first 20 tokens of training text; of text that is only measured nothing is read, which would be an error."""
    (tmp_path / "rows.txt").write_text("w1 w2 w3\n" * 500)
    limited = SourceSettings(
        path=str(tmp_path / "rows.txt"), format="lines", splits={"train": 1.0}, max_tokens={"train": 20}
    )
    foreign = SourceSettings(path=str(tmp_path / "none.txt"), format="lines", splits={"foreign": 1.0, "train": 0.0})
    corpus = CorpusSettings(sources={"foreign": foreign, "limited": limited})
    # The end of a document is id 0.
    assert count_training_tokens(corpus, make_tokenizer(5), Path()).tolist() == [5, 5, 5, 5, 0]
    assert count_training_tokens(corpus, make_tokenizer(5), Path(), limit=6).tolist() == [1, 2, 2, 1, 0]


def test_a_vocabulary_that_is_not_smaller_is_refused_before_anything_is_read():
    sizes = ModelSizes(
        model_type="llama",
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    with pytest.raises(ValueError, match=r"teacher.vocabulary=300 must be less than 300"):
        describe_teacher(TeacherSettings(model="nobody/nothing", architecture=sizes, vocabulary=300))
