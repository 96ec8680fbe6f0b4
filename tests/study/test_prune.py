"""Work folders that no recent run has used are listed first, and removed when asked to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from budwood.records.locks import holding
from budwood.records.runs import WORKSPACE, note_run
from budwood.study.prune import main, prune
from budwood.study.stage import USED, Workspace

NOW = datetime.now(UTC)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Return a data folder with three work folders that were last used 1, 10 and 100 days ago."""
    workspace = Workspace(folder=tmp_path / WORKSPACE)
    for days in (1, 10, 100):
        folder = workspace.claim("stage", {"days": days})
        (folder / "data").write_bytes(b"0" * 2**20)
        (folder / USED).write_text((NOW - timedelta(days=days)).isoformat())
    return tmp_path


def ages(data_root: Path) -> list[int]:
    """Return the days for which the folders that are left were not used."""
    used = [datetime.fromisoformat(file.read_text()) for file in (data_root / WORKSPACE).glob(f"*/{USED}")]
    return sorted(round((NOW - each) / timedelta(days=1)) for each in used)


def test_nothing_is_removed_unasked(data_root):
    report = prune(data_root, older_than_days=5)
    assert ages(data_root) == [1, 10, 100]
    assert report.count(" 1.00 MiB ") == 2
    assert "2 work folders with 2.00 MiB would be removed; nothing was yet. Add --yes to remove them." in report
    listed = [folder for folder in (data_root / WORKSPACE).iterdir() if str(folder) in report]
    assert len(listed) == 2


def test_what_is_older_than_some_days_is_removed(data_root):
    report = prune(data_root, older_than_days=5, delete=True)
    assert ages(data_root) == [1]
    assert report.endswith("Removed 2 work folders with 2.00 MiB.")
    assert "there is nothing to remove" in prune(data_root, older_than_days=5, delete=True)


def test_what_the_newest_whole_run_has_used_stays(data_root):
    note_run(data_root, NOW - timedelta(days=50), whole=True)
    note_run(data_root, NOW, whole=False)
    assert "1 work folders" in prune(data_root)
    prune(data_root, delete=True)
    assert ages(data_root) == [1, 10]


def test_without_a_whole_run_nobody_knows_what_is_needed(data_root):
    with pytest.raises(ValueError, match=r"no whole run has ended there yet.*--older-than-days"):
        prune(data_root, delete=True)
    assert ages(data_root) == [1, 10, 100]


def test_nothing_is_removed_under_a_run(data_root, capsys):
    with holding(data_root, "a run"):
        prune(data_root, older_than_days=5)
        with pytest.raises(SystemExit) as error:
            main([str(data_root), "--older-than-days=5", "--yes"])
    assert error.value.code == 1
    assert "is in use: a run by process" in capsys.readouterr().err
    assert ages(data_root) == [1, 10, 100]


def test_the_command(data_root, tmp_path, capsys):
    main([str(data_root), "--older-than-days", "20"])
    assert "1 work folders with 1.00 MiB would be removed" in capsys.readouterr().out
    main([str(data_root), "--older-than-days", "20", "--yes"])
    assert "Removed 1 work folders" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "elsewhere")])
    assert "name the folder where runs keep their data" in capsys.readouterr().err


def test_the_folder_of_a_study_in_python(data_root):
    """No run is noted there, so days decide."""
    folder = data_root / WORKSPACE
    with pytest.raises(ValueError, match=r"no whole run has ended there yet.*--older-than-days"):
        prune(folder, delete=True)
    with holding(next(folder.iterdir()), "a call"):
        prune(folder, older_than_days=5)
    assert "Removed 2 work folders with 2.00 MiB." in prune(folder, older_than_days=5, delete=True)
    assert ages(data_root) == [1]
