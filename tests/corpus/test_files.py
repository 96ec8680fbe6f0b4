"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from budwood.records.files import write_atomically


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new folder" / "file.json"
    write_atomically(file, "old")
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]

    def torn(self, text, encoding):
        with self.open("w", encoding=encoding) as stream:
            stream.write(text[:1])
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises(OSError, match="no space left"):
            write_atomically(file, "new")
    assert file.read_text() == "old"
    write_atomically(file, "née")
    assert file.read_text(encoding="utf-8") == "née"
