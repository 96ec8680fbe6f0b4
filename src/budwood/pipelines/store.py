"""The MLflow store: which one, where it keeps artifacts, and the experiment in it."""

import contextlib
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
from pydantic import Field

from budwood.pipelines.secrets import clean_text
from budwood.records.paths import resolve_path
from budwood.records.strict import Strict

logger = logging.getLogger(__name__)

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
QUICKSTART = "quickstart"
"""Experiment of the base."""
_SQLITE = "sqlite:///"
_OPTIONS = re.compile(r"\?(?=\w+=)")
"""Begins what an address says beside a path."""
_SERVERS = ("http", "https", "databricks")
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""Columns of MLflow's database that say where artifacts are."""


class TrackingSettings(Strict):
    """What `conf/*/mlflow.yml` may contain."""

    tracking_uri: str
    """Relative paths begin at the root of the project; in that of a database every character stands for itself. The
    environment variable `MLFLOW_TRACKING_URI` overrides it, as it is."""
    experiment: str | None = None
    """Null: the name of the environment, and `quickstart` for the base. The environment variable
    `MLFLOW_EXPERIMENT_NAME` overrides it."""
    artifacts: str | None = None
    """A folder or an address, such as `s3://bucket/budwood`; null: beside a database in a file, and where a server
    keeps its artifacts. A relative path begins at the root of the project."""
    registers: bool = Field(default=False, alias="register")
    """Whether trained checkpoints become versions of registered models, by reference."""

    def rooted(self, root: Path) -> Self:
        """Return the settings with relative paths spelt out."""
        uri = self.tracking_uri
        if uri.startswith(_SQLITE):
            path, *options = _OPTIONS.split(uri.removeprefix(_SQLITE), maxsplit=1)
            uri = "?".join([_SQLITE + _escaped(resolve_path(path, root)), *options])
        elif not urlsplit(uri).scheme and uri not in _SERVERS:
            uri = resolve_path(uri, root)
        artifacts = self.artifacts
        if artifacts is not None and not urlsplit(artifacts).scheme:
            artifacts = resolve_path(artifacts, root)
        return self.model_copy(update={"tracking_uri": uri, "artifacts": artifacts})

    def named(self, environment: str | None) -> Self:
        """Return the settings with the name of an experiment.

        Args:
            environment: of the configuration; None for the base alone.
        """
        return self.model_copy(update={"experiment": self.experiment or environment or QUICKSTART})


def open_experiment(settings: TrackingSettings) -> None:
    """Point MLflow to the store and to the experiment, which is made where there is none.

    Raises:
        ValueError: the store cannot keep runs, artifacts or models as the settings ask.
    """
    uri = _overridden(URI, settings.tracking_uri)
    if urlsplit(uri).scheme in {"", "file"} and not uri.startswith(_SERVERS) and not MLFLOW_ALLOW_FILE_STORE.get():
        raise ValueError(
            f"mlflow.tracking_uri: MLflow keeps no runs in a folder any more, got {clean_text(uri)}; name a database, "
            "such as sqlite:///mlflow.db, or a server"
        )
    if settings.registers and uri.startswith(_SERVERS):
        raise ValueError(
            f"mlflow.register: true needs a database as tracking_uri, got {clean_text(uri)}: a server refuses models "
            "outside its own artifacts"
        )
    inherited = os.environ.get(URI)
    if uri.startswith(_SQLITE):
        _file_of(uri).parent.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    # MLflow writes the variable itself; the next run of this process would take it for the user's.
    os.environ.pop(URI, None)
    if inherited is not None:
        os.environ[URI] = inherited
    name = _overridden(EXPERIMENT, settings.experiment or QUICKSTART)
    wanted = artifact_root(uri, settings.artifacts)
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        mlflow.create_experiment(name, artifact_location=wanted)
    else:
        _reuse(experiment, uri, wanted, settings.artifacts)
    mlflow.set_experiment(name)
    # Otherwise the page opens among traces and judges of chat models.
    mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")


def artifact_root(uri: str, configured: str | None) -> str | None:
    """Return where a new experiment keeps its artifacts; None where the store decides.

    Args:
        uri: of the store.
        configured: the absolute path of a folder, an address, or nothing.

    Raises:
        ValueError: nothing is configured, and the store is a database without a folder of its own.
    """
    if configured is not None:
        return configured if urlsplit(configured).scheme else Path(configured).as_uri()
    if uri.startswith(_SQLITE):
        return (_file_of(uri).parent / "artifacts").as_uri()
    if urlsplit(uri).scheme in {"", "file", *_SERVERS}:
        return None
    raise ValueError(f"mlflow.artifacts: name a folder or an address, the store {clean_text(uri)} keeps no files")


def register_model(name: str, run_id: str, folder: Path, fingerprint: str) -> None:
    """Make a checkpoint a version of a registered model by reference, unless its newest version is the same one."""
    client, source = mlflow.MlflowClient(), folder.resolve().as_uri()
    versions = client.search_model_versions(f"name = '{name}'", order_by=["version_number DESC"], max_results=1)
    if versions and (versions[0].source, versions[0].tags.get("fingerprint")) == (source, fingerprint):
        return
    if not versions:
        with contextlib.suppress(mlflow.MlflowException):  # it exists without a version
            client.create_registered_model(name)
    client.create_model_version(name, source, run_id, {"fingerprint": fingerprint})


def _overridden(variable: str, configured: str) -> str:
    """Return what an environment variable says, else what is configured."""
    value = os.environ.get(variable)
    if value is None or value == configured:
        return configured
    logger.info("%s=%s overrides %s of the configuration", variable, *map(clean_text, (value, configured)))
    return value


def _reuse(experiment: Experiment, uri: str, wanted: str | None, configured: str | None) -> None:
    """Restore an experiment that was deleted, and check that it keeps artifacts where they are wanted."""
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        mlflow.MlflowClient().restore_experiment(experiment.experiment_id)
        logger.info("The MLflow experiment %s was deleted: restored it with its runs", experiment.name)
    kept = experiment.artifact_location.rstrip("/")
    if wanted is None or kept == wanted.rstrip("/"):
        return
    if configured is not None:
        raise ValueError(
            f"mlflow.artifacts: the experiment {experiment.name!r} keeps its artifacts in {kept}, got {wanted}; MLflow "
            "fixes the place when it makes an experiment: name another `experiment`, or that place"
        )
    # Beside the database, with which it moves.
    if _folder_of(wanted).is_dir() or not _folder_of(kept).is_dir():
        _move(_file_of(uri), kept, wanted)
        logger.info("The project was moved or copied: MLflow finds its artifacts in %s, formerly in %s", wanted, kept)


def _move(database: Path, before: str, after: str) -> None:
    """Replace the place of artifacts in a database; MLflow's own interface cannot."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _PLACES:
            inside = f"{column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/'"
            moved = f":after || substr({column}, length(:before) + 1)"
            connection.execute(
                f"UPDATE {table} SET {column} = {moved} WHERE {inside}",  # noqa: S608 - the names are constants
                {"before": before, "after": after},
            )


def _escaped(path: str) -> str:
    """Return a path as the address of a database has it, changed only where it would be read otherwise."""
    return re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", path).replace("?", "%3F")


def _file_of(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])).resolve()


def _folder_of(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))
