"""What text is read."""

from typing import Self

from pydantic import Field, model_validator

from budwood.corpus.documents import TextSource, require_consistent
from budwood.records.strict import Strict


class SourceParameters(Strict):
    """One source of text; see `budwood.corpus.documents.TextSource`."""

    path: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    revision: str | None = None
    format: str = "text"
    text_field: str = "text"
    document_start: str | None = None
    splits: dict[str, float]
    license: str = "unknown"
    attribution: str = ""
    max_documents: int | None = Field(default=None, gt=0)
    max_tokens: dict[str, int] = Field(default_factory=dict)
    weight: float | None = Field(default=None, gt=0)


class CorpusParameters(Strict):
    """All text."""

    sources: dict[str, SourceParameters | None] = Field(min_length=1)
    """Sources by name; an environment takes one of the base away by giving it null."""
    seed: int = 42
    num_processes: int = Field(default=1, gt=0)
    """Processes that tokenise; their number changes no result."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        require_consistent(self.text_sources())
        return self

    def text_sources(self) -> list[TextSource]:
        """Return the sources as the corpus reads them.

        Raises:
            ValueError: a source is not fully described.
        """
        return [TextSource(name=name, **source.model_dump()) for name, source in self.sources.items() if source]
