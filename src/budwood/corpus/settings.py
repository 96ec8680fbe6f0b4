"""What text is read, and how it is divided."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from budwood.corpus.split import FOREIGN, validate_fractions
from budwood.records.strict import HOW, Strict, naming

Format = Literal["text", "lines", "jsonl", "csv", "parquet", "json"]
Bos = Literal["auto", "always", "never"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value or ()


class SourceSettings(Strict):
    """One source of documents and its division into splits."""

    name: str = ""
    """Names the source in the corpus, which takes it from the key in `CorpusSettings.sources`."""
    path: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Files, folders or globs, one or a list of them: local paths, `package://<import name>/<path>` inside an installed
    package, and URLs that fsspec reads (`s3://`, `hf://`). Relative paths begin at the root of the project."""
    dataset: str | None = None
    """Id of a dataset on the Hugging Face hub, or a folder like one; streamed. Its card says which files it has, and an
    object of JSON is a row; options of a card that cannot be followed are refused."""
    dataset_config: str | None = None
    """Configuration of a hub dataset."""
    dataset_split: str = "train"
    """Split of a hub dataset that is read; `splits` divides its rows."""
    revision: str | None = None
    """Commit, tag or branch of a hub dataset."""
    format: Format = "text"
    """Format of the files of `path`: a document per file (`text`), per line of text (`lines`), per line of JSON
    (`jsonl`), per row below a header, separated by commas or, in `.tsv`, by tabs (`csv`), or per entry of one array or
    object, where a string is a text itself (`json`), all also compressed by gzip, bzip2, xz or zstandard; or per row
    (`parquet`)."""
    text_field: str = "text"
    """The field, column or key with the text; dots lead into nested ones (`meta.text`). The formats `text` and `lines`
    have none."""
    document_start: str | None = None
    """Regular expression of rows that begin a document, for sets whose rows are lines: the rows up to the next such row
    are one document. Without it every row is one."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a row that cannot be used does: stop the run, or be left out and counted. Files that are damaged, so that
    their rows cannot be separated, always stop it."""
    splits: dict[str, float]
    """Share of each split (`train`, `calibration`, `selection`, `choice`, `validation`, `foreign`); sums to 1."""
    license: str = "unknown"
    """Recorded, and written into every model card."""
    attribution: str = ""
    """Whom a model card names as the source."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """Code of its language, such as `en`, for model cards."""
    max_documents: int | None = Field(default=None, gt=0)
    """Stop after this many documents with text."""
    max_tokens: dict[str, int] = Field(default_factory=dict)
    """Most tokens of a split, by its name. Reading ends where every split named here is full."""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the source in the mixture, relative to the weights of the others; by size without it."""

    @property
    def is_foreign(self) -> bool:
        """Whether the source is only ever measured, beside the text of the study."""
        return {split for split, share in self.splits.items() if share > 0} == {FOREIGN}

    @property
    def place(self) -> str:
        """Where the text is, for messages."""
        return self.dataset or ", ".join(self.path)

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if bool(self.path) == (self.dataset is not None):
            raise ValueError(
                f"source {self.name!r} needs exactly one of path and dataset, "
                f"got path={list(self.path)}, dataset={self.dataset!r}"
            )
        validate_fractions(self.splits)
        filled = [split for split, share in self.splits.items() if share > 0]
        if not set(self.max_tokens) <= set(filled) or min(self.max_tokens.values(), default=1) < 1:
            raise ValueError(
                f"source {self.name!r} has max_tokens={self.max_tokens}; "
                f"allowed are numbers of at least 1 for {filled}, the splits with a share"
            )
        with naming(f"source {self.name!r} has document_start={self.document_start!r}", re.error):
            re.compile(self.document_start or "")
        return self


def _named(sources: object) -> object:
    """Give sources their names, and leave out those that an environment takes away by null."""
    if not isinstance(sources, Mapping):
        return sources
    return {name: _with_name(name, source) for name, source in sources.items() if source is not None}


def _with_name(name: str, source: Any) -> Any:
    if isinstance(source, SourceSettings):
        return source.model_copy(update={"name": name})
    return {**source, "name": name} if isinstance(source, Mapping) else source


class CorpusSettings(Strict):
    """All text."""

    sources: Annotated[dict[str, SourceSettings], BeforeValidator(_named)] = Field(min_length=1)
    """Sources by name; an environment takes one of the base away by giving it null."""
    seed: int = 42
    """Seed of the splits and of the order of documents."""
    bos: Bos = "auto"
    """Whether every sequence begins with the tokenizer's beginning-of-text token: `auto`, where the tokenizer puts one
    in front of a text; `always`; or `never`."""
    num_processes: Annotated[int, HOW] = Field(default=1, gt=0)
    """Processes that tokenise; their number changes no result."""

    @property
    def weights(self) -> dict[str, float | None]:
        """Weight of every source, by name."""
        return {name: source.weight for name, source in self.sources.items()}

    def num_sources(self, split: str) -> int:
        """Return how many sources have text of a split."""
        return sum(source.splits.get(split, 0) > 0 for source in self.sources.values())

    @model_validator(mode="after")
    def _weighted_alike(self) -> Self:
        mixed = [name for name, source in self.sources.items() if not source.is_foreign]
        unweighted = [name for name in mixed if self.weights[name] is None]
        if 0 < len(unweighted) < len(mixed):
            raise ValueError(f"give every source a weight or none; without one are {unweighted}")
        return self
