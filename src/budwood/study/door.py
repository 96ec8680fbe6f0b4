"""Studies in Python: `open_study` returns a `Study`.

Everything is kept in one folder: a call that was interrupted continues, and one that was made before answers at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from budwood.corpus.files import SUFFIXES, is_named_as
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.models.settings import TeacherSettings
from budwood.records.names import require_names
from budwood.records.tracking import Track
from budwood.study.arguments import require_class, require_kind
from budwood.study.defaults import MEASUREMENT, SHARES
from budwood.study.settings import MeasurementSettings
from budwood.study.stage import Workspace, no_tracking
from budwood.study.study import Study
from budwood.study.teacher import fetch_source, teacher_record
from budwood.study.text import PackText, require_measured
from budwood.study.vocabulary import trim
from budwood.training.settings import Engine


def open_study(
    teacher: str | Path | TeacherSettings,
    texts: CorpusSettings | Mapping[str, str | Path | SourceSettings],
    *,
    folder: str | Path = "budwood-study",
    measurement: MeasurementSettings = MEASUREMENT,
    engine: Engine | None = None,
    track: Track = no_tracking,
) -> Study:
    """Open a study: fetch the teacher and pack the text in its tokens.

    Args:
        teacher: a hub id, a checkpoint folder, a GGUF file, `package://<import name>/<file>`, or `TeacherSettings`.
        texts: sources by name: a path, whose ending gives the format, divided as `budwood.study.defaults.SHARES` says;
            or `SourceSettings`; or a whole corpus.
        folder: keeps everything, for later calls too.
        measurement: how much text is measured on, and where models run.
        engine: how models are trained; on one device of this machine without.
        track: called with metrics and a step while searches and trainings run; with a launcher, a function of a module.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the teacher cannot be fetched, a text cannot be read, or there is too little of it.
        FolderInUseError: another process is doing the same work in this folder.
    """
    require_kind("teacher", teacher, (str, Path, TeacherSettings), "a hub id, a path, or TeacherSettings")
    require_kind("folder", folder, (str, Path), "a path")
    require_kind("texts", texts, (CorpusSettings, Mapping), "texts by name, such as {'mine': 'texts/*.txt'}")
    require_class("measurement", measurement, MeasurementSettings)
    require_class("engine", engine := Engine() if engine is None else engine, Engine)
    require_kind("track", track, Callable, "a function of metrics and a step")  # type: ignore[arg-type]  # an abstract class
    workspace, root = Workspace(folder=Path(folder).expanduser().resolve(), track=track), Path.cwd()
    settings = teacher if isinstance(teacher, TeacherSettings) else TeacherSettings(model=str(teacher))
    corpus = texts if isinstance(texts, CorpusSettings) else _corpus(texts)
    fetched = trim(fetch_source(settings, workspace, root), settings.vocabulary, corpus, workspace, root)
    fetched.checkpoint.check_lengths(measurement.lengths)
    record = teacher_record(fetched, settings, workspace)
    tokens = workspace.finish(PackText.of(fetched.checkpoint, corpus, root))
    require_measured(tokens, measurement)
    return Study(
        teacher=fetched.checkpoint,
        source=settings,
        record=record,
        tokens=tokens,
        corpus=corpus,
        measurement=measurement,
        engine=engine,
        workspace=workspace,
    )


def _corpus(texts: Mapping[str, str | Path | SourceSettings]) -> CorpusSettings:
    require_names("texts", texts)
    return CorpusSettings(
        sources={
            name: text if isinstance(text, SourceSettings) else _source(f"texts[{name!r}]", text)
            for name, text in texts.items()
        }
    )


def _source(name: str, path: str | Path) -> SourceSettings:
    require_kind(name, path, (str, Path), "a path or SourceSettings")
    named = (kind for kind in SUFFIXES if is_named_as(str(path), kind))
    return SourceSettings(path=(str(path),), format=next(named, "text"), splits=SHARES)
