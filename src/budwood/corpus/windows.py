"""What a study asks of its text."""

from collections.abc import Mapping

from budwood.corpus.packing import PackedCorpus


def require_windows(corpus: PackedCorpus, length: int, counts: Mapping[str, int], *, per_source: bool) -> None:
    """Check that every split holds the sequences that will be asked of it.

    Args:
        corpus: the packed text.
        length: tokens predicted per sequence.
        counts: sequences asked of each split.
        per_source: they are asked of every source that the split has, not of all together.

    Raises:
        ValueError: a split is missing or too small; the message gives what it holds.
    """
    for split, count in counts.items():
        sources: list[str | None] = [*corpus.sources(split)] if per_source else []
        for source in sources or [None]:
            corpus.window_starts(split, length, source=source, limit=count)
