"""Sources of documents that a test writes, and what is read of them."""

import json
import lzma
from pathlib import Path

import pyarrow as pa

from budwood.corpus.documents import Document, read_documents
from budwood.corpus.settings import SourceSettings

NOWHERE = Path("/nowhere")
"""A root for paths that are absolute."""


def source(**changes: object) -> SourceSettings:
    """Return settings of a source whose documents are all for training."""
    return SourceSettings(**{"name": "s", "splits": {"train": 1.0}, "path": "unset"} | changes)


def changed(of: SourceSettings, **changes: object) -> SourceSettings:
    """Return settings with some fields replaced, validated again."""
    return SourceSettings(**of.model_dump() | changes)


def read(of: SourceSettings, root: Path = NOWHERE) -> list[Document]:
    """Return all documents."""
    return list(read_documents(of, root))


def texts(of: SourceSettings, root: Path = NOWHERE) -> list[str]:
    """Return the texts of all documents."""
    return [document.text for document in read(of, root)]


def write_jsonl(path: Path, rows: list[object]) -> str:
    """Write a line for every row, and return the path."""
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def write_card(folder: Path, options: str) -> None:
    """Write the card of a dataset with one configuration, as YAML whose lines after the first are indented."""
    card = f"---\nconfigs:\n- config_name: default\n  {options}\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


def compressed(path: Path, content: bytes, codec: str) -> None:
    """Write a file that is compressed by a codec of Arrow, or as xz."""
    if codec == "xz":
        path.write_bytes(lzma.compress(content))
        return
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, codec) as file:
        file.write(content)
