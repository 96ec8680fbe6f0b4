"""Teachers as people bring them, from the intake over search, choice and export to a training from random weights."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ggufs import header_of, tensors_of, write_gguf
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from teachers import TEACHERS, tiny_teacher
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from budwood.models.checkpoint import Checkpoint
from budwood.models.probe import TEXT
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer
from budwood.search.settings import SearchSettings
from budwood.study.door import open_study
from budwood.study.settings import BinSettings, MeasurementSettings
from budwood.study.stage import Workspace
from budwood.study.study import Study, Subnet
from budwood.study.teacher import fetch_further
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.settings import Engine, Schedule

pytestmark = pytest.mark.slow

MEASUREMENT = MeasurementSettings(
    length=32, calibration=4, elimination=1, selection=2, choice=2, validation=2, heldout=2, device="cpu"
)
SEARCH = SearchSettings(
    population=3, epochs=1, num_elites=2, num_mutants=1, num_crossovers=1, num_randoms=1, num_finalists=1
)
SCHEDULE = Schedule(tokens=64, sequence_length=32, global_batch=1, micro_batch=1)
WORDS = ["the", "tree", "grew", "old", "wall", "garden", "river", "stone", "autumn", "spring", "counted", "apple"]
HALF = BinSettings(fraction=0.5, tolerance=0.25)
UNIFORM = SpaceSettings(layerwise=False, compensation=Compensation())
FINE = SpaceSettings(layerwise=True, granularity="fine", compensation=Compensation())
REBUILT = SpaceSettings(layerwise=True, granularity="fine", rope="rebuild", score_gain=False)
every_kind = pytest.mark.parametrize(
    ("name", "space"),
    [("llama tied", FINE), ("gpt_neox untied", UNIFORM), ("gpt_neox untied", FINE), ("gemma2 tied", UNIFORM)],
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("text")
    draws = np.random.default_rng(0)
    for number in range(120):
        (folder / f"{number}.txt").write_text(" ".join(draws.choice(WORDS, 60)) + f" {number}")
    return {"words": folder}


@dataclass(frozen=True)
class Bench:
    """Teachers and studies of them."""

    folder: Path
    texts: dict[str, Path]

    def teacher(self, name: str = "llama tied", **changes: object) -> Path:
        family, tied = TEACHERS[name]
        tiny_teacher(family, tied=tied, **{"vocab_size": 257, **changes}).save_pretrained(self.folder / "teacher")
        byte_tokenizer().save_pretrained(self.folder / "teacher")
        return self.folder / "teacher"

    def study(self, teacher: object, name: str = "study") -> Study:
        # To compile the loss takes longer than these runs.
        engine = Engine(compile_loss="off")
        return open_study(teacher, self.texts, folder=self.folder / name, measurement=MEASUREMENT, engine=engine)

    def searched(self, teacher: object, space: SpaceSettings = UNIFORM, name: str = "study") -> Subnet:
        return self.study(teacher, name).search({"half": HALF}, space=space, settings=SEARCH)["half"]


@pytest.fixture
def bench(tmp_path, texts) -> Bench:
    return Bench(tmp_path, texts)


def rewrite(folder: Path, change) -> Path:
    file = folder / "model.safetensors"
    save_file({name: change(name, t).contiguous() for name, t in load_file(file).items()}, file, {"format": "pt"})
    return folder


def configure(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def frequencies(model: Checkpoint) -> list[list[float]]:
    buffers = model.load_model(torch.float32).named_buffers()
    return [buffer.tolist() for name, buffer in buffers if name.endswith("inv_freq") and "original" not in name]


@every_kind
def test_several_precisions(bench, name, space):
    def change(name, tensor):
        return tensor if "norm" in name or "embed" in name else tensor.bfloat16()

    found = bench.searched(rewrite(configure(bench.teacher(name), dtype="bfloat16"), change), space)
    assert found.certificate.dtypes.keys() == {"float32", "bfloat16"}
    assert found.certificate.largest_logit_difference <= found.certificate.tolerance


@every_kind
def test_zeroed_heads_and_layers(bench, name, space):
    zeroed = ("q_proj", "k_proj", "o_proj", "layers.1.attention", "layers.1.mlp")

    def change(name, tensor):
        return torch.zeros_like(tensor) if any(part in name for part in zeroed) else tensor

    found = bench.searched(rewrite(bench.teacher(name), change), space)
    assert 0 < found.winner.choice_loss < 20  # neither is true of NaN
    assert found.certificate.largest_logit_difference <= found.certificate.tolerance


def test_a_tied_flag_beside_a_head_of_its_own(bench):
    folder = configure(bench.teacher("llama untied"), tie_word_embeddings=True)
    study = bench.study(folder)
    assert not study.teacher.architecture.tie_word_embeddings
    found = study.search({"half": HALF}, space=UNIFORM, settings=SEARCH)["half"]
    assert not found.checkpoint.architecture.tie_word_embeddings
    ids = torch.arange(30)[None]
    with torch.no_grad():
        ours, theirs = (
            model.eval()(ids).logits
            for model in (study.teacher.load_model(torch.float32), AutoModelForCausalLM.from_pretrained(folder))
        )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "space"),
    [("llama tied", FINE), ("gpt_neox untied", REBUILT), ("smollm3 tied", REBUILT)],
    ids=["preserve", "rebuild", "some do not turn"],
)
def test_an_export_whose_layers_turn_differently_is_a_teacher(bench, name, space):
    parent = bench.searched(bench.teacher(name), FINE, "parent").checkpoint
    study = bench.study(str(parent.folder), "second")
    child = study.search({"half": HALF}, space=space, settings=SEARCH)["half"].checkpoint
    base = parent.config.get("original_rope_parameters", parent.config["rope_parameters"])["rope_theta"]
    trained = study.pretrain(child, random=True, schedule=SCHEDULE).model
    for found in frequencies(trained):
        plain = [base ** (-slot / len(found)) for slot in range(len(found))]
        assert found == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("file", "content"),
    [("chat_template.jinja", "{% for m in messages %}{{ m"), ("chat_template.jinja", "{{ raise_exception('no') }}")],
)
def test_a_template_that_fails_is_reported_by_the_card(bench, file, content):
    folder = bench.teacher()
    (folder / file).write_text(content)
    card = (bench.searched(folder).checkpoint.folder / "README.md").read_text()
    assert "it does not format a question by itself" in card


def test_damaged_generation_settings_are_refused_before_the_search(bench):
    folder = bench.teacher()
    (folder / "generation_config.json").write_text('{"a":')
    with pytest.raises(ValueError, match=r"generation_config\.json is missing, empty or damaged"):
        bench.study(folder)


def test_a_tokenizer_with_code(bench):
    folder = bench.teacher()
    (folder / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    found = bench.searched(TeacherSettings(model=str(folder), trust_remote_code=True))
    assert isinstance(found.checkpoint.load_tokenizer(), PreTrainedTokenizerFast)
    assert not list(found.checkpoint.folder.glob("own.py"))


def test_a_sentencepiece_model_alone(bench):
    """Without tokenizer.json: its tokens are those of sentencepiece, from the text to the export."""
    folder, model = bench.teacher(vocab_size=400), io.BytesIO()
    sentences = [file.read_text() for file in sorted(bench.texts["words"].glob("*.txt"))]
    SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, TEXT]),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    found = bench.searched(folder)
    expected = SentencePieceProcessor(model_proto=model.getvalue()).encode(sentences[0])
    for checkpoint in (bench.study(folder).teacher, found.checkpoint):
        assert checkpoint.load_tokenizer()(sentences[0], add_special_tokens=False).input_ids == expected


def test_a_gguf_file_from_the_intake_to_the_end_of_a_training(bench):
    """With the rotary factors of Llama 3, which the file keeps as a tensor."""
    model = tiny_teacher("llama", tied=True, vocab_size=257)
    factors = {"rope_freqs.weight": np.linspace(1, 8, model.config.head_dim // 2, dtype=np.float32)}
    file = write_gguf(bench.folder / "teacher.gguf", "llama", header_of(model), tensors_of(model) | factors)
    study, found = bench.study(str(file)), bench.searched(str(file))
    assert found.certificate.largest_logit_difference <= found.certificate.tolerance
    teacher = AutoModelForCausalLM.from_pretrained(study.teacher.folder)
    for name, weight in model.named_parameters():
        assert torch.equal(teacher.get_parameter(name), weight), name
    for trained in (
        study.pretrain(found.checkpoint, schedule=SCHEDULE),
        study.distill(found.checkpoint, schedule=SCHEDULE),
    ):
        assert trained.record.steps == 2
        assert np.isfinite(trained.curve["heldout_loss"].dropna()).all()


@pytest.mark.parametrize("family", ["mistral untied", "qwen2 tied"])
def test_windows_shorter_than_the_sequences_stay(bench, family):
    windows = {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": True} if "qwen2" in family else {}
    found = bench.searched(bench.teacher(family, sliding_window=16, **windows))
    assert found.checkpoint.config["sliding_window"] == 16


def test_the_teacher_is_verified_before_any_text_is_read(bench, monkeypatch):
    monkeypatch.setattr("budwood.study.teacher.verify_teacher", lambda *_: (_ for _ in ()).throw(ValueError("another")))
    with pytest.raises(ValueError, match="another"):
        open_study(bench.teacher(), {"none": bench.folder / "nowhere"}, folder=bench.folder, measurement=MEASUREMENT)


def test_a_teacher_that_is_replaced_in_an_open_study_is_noticed(bench):
    folder = bench.teacher()
    study = bench.study(folder)
    rewrite(folder, lambda _, tensor: 2 * tensor)
    with pytest.raises(ValueError, match=r"teacher has changed since it was opened: .*; run again"):
        study.ranked  # noqa: B018 - asking for it does the work
    assert bench.study(folder).ranked.importance


def test_nothing_is_written_beside_the_teacher(bench):
    folder = bench.teacher()
    before = sorted(folder.iterdir())
    bench.searched(folder)
    assert sorted(folder.iterdir()) == before


def test_further_teachers_read_the_same_tokens_and_whole_sequences(bench, tmp_path):
    own = Checkpoint.open(bench.teacher())
    further = shutil.copytree(own.folder, tmp_path / "further")
    workspace = Workspace(folder=tmp_path / "work")

    def fetch(length):
        return fetch_further(TeacherSettings(model=str(further)), own, length, workspace, tmp_path)

    assert fetch(128).fingerprint == own.fingerprint
    with pytest.raises(ValueError, match=r"sequence_length=129 exceeds the 128 positions of .*further"):
        fetch(129)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(further)
    with pytest.raises(ValueError, match="further has another tokenizer than the study's teacher"):
        fetch(32)


def test_only_models_of_the_teachers_tokenizer_are_trained(bench, tmp_path):
    study = bench.study(bench.teacher())
    other, tokenizer = shutil.copytree(bench.folder / "teacher", tmp_path / "other"), byte_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(other)
    for train in (study.pretrain, study.distill):
        with pytest.raises(ValueError, match=r"start=.*other has another tokenizer than .*, its teacher"):
            train(Checkpoint.open(other), schedule=SCHEDULE)


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows(bench):
    """Special tokens are added without a row; no packed text holds them, so nothing needs one."""
    folder, tokenizer = bench.teacher(), byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.save_pretrained(folder)
    study = bench.study(folder)
    assert study.record.num_token_ids == 257
    child = study.search({"half": HALF}, space=UNIFORM, settings=SEARCH)["half"].checkpoint
    assert study.pretrain(child, random=True, schedule=SCHEDULE).model.architecture.vocab_size == 257
