"""Secrets stay out of what is logged, and nothing else does."""

import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, settings
from projects import ROOT, kedro

from budwood.hooks import _flatten
from budwood.pipelines.secrets import clean_command, clean_text, is_secret, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        *("token", "hf_token", "HF_TOKEN", "hugging_face.token", "token.value"),
        *("apiKey", "api-key", "accesskey", "AWS_SECRET_ACCESS_KEY"),
        *("db.password", "client_secret_value", "credentials.user"),
    ],
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("schedule.tokens", "protocol.probe_tokens", "tokenizer", "eos_token_id"),
        *("num_key_value_heads", "bins.monkeys.fraction", "keys", ""),
    ],
)
def test_names_of_other_things(name):
    assert not is_secret(name)


@pytest.mark.slow
def test_no_parameter_of_the_project_is_masked(monkeypatch):
    monkeypatch.chdir(ROOT)
    configure_project("budwood")
    for environment in ("base", "protocol", "pythia_6_9b"):
        loader = OmegaConfigLoader(str(ROOT / "conf"), env=environment, **settings.CONFIG_LOADER_ARGS)
        values = _flatten("", loader["parameters"])
        assert without_secrets(values) == values


def test_values_by_their_names_and_passwords_in_addresses():
    values = {"a.token": "x", "a.api_key": None, "uri": "https://me:pw@host/x", "tokens": 5}
    assert without_secrets(values) == {
        "a.token": "***",
        "a.api_key": None,
        "uri": "https://me:***@host/x",
        "tokens": 5,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kedro", "run", "--env=smoke"], "kedro run --env=smoke"),
        (["run", "--params=a.token=hf_x,b=2"], "run --params=a.token=***,b=2"),
        (["run", "--params", "b=2,a.token=hf_x"], "run --params b=2,a.token=***"),
        (["run", "--params", "a.token:hf_x"], "run --params a.token:***"),
        (["run", "--token=hf_x", "--api-key", "y", "--tags=half"], "run --token=*** --api-key *** --tags=half"),
        (["run", "--params=schedule.tokens=4096"], "run --params=schedule.tokens=4096"),
        (["run", "--params=x=s3://me:pw@host/a b"], "run --params=x=s3://me:***@host/a b"),
        (["run", "a b"], "run 'a b'"),
    ],
)
def test_a_command_is_shown_without_secrets(arguments, expected):
    assert clean_command(arguments) == expected


def test_an_address_keeps_all_but_its_password():
    assert clean_text("postgresql://me:pw@db:5432/x") == "postgresql://me:***@db:5432/x"
    assert clean_text("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.slow
def test_a_secret_of_the_command_line_reaches_no_file_of_mlflow(project):
    """A random teacher has no such setting, which is refused without its value.

    Kedro finds the store of the project from any folder.
    """
    arguments = ("--nodes=fetch_teacher", "--params=teacher.random.hf_token=hf_private")
    done = kedro(project, "run", "--env=smoke", *arguments, folder="data")
    assert done.returncode == 1, (done.stdout + done.stderr)[-3000:]
    assert "teacher.random: hf_token is not a field of LlamaConfig in transformers" in done.stdout + done.stderr
    assert "hf_private" not in done.stdout + done.stderr
    assert list(project.rglob("*.db")) == [project / "data/09_tracking/mlflow.db"]
    files = [file for file in (project / "data/09_tracking").rglob("*") if file.is_file()]
    stored = b"".join(file.read_bytes() for file in files)
    assert b"hf_token" in stored
    assert b"hf_private" not in stored
