"""Look at text, tokenise and pack it."""

from pathlib import Path

import pandas as pd

from budwood.corpus.ingestion import sample_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import Checkpoint
from budwood.pipelines.tracking import open_workspace
from budwood.pipelines.wiring import project_root
from budwood.study.settings import Conditions
from budwood.study.text import PackText, require_text


def sample_documents(corpus: CorpusSettings) -> pd.DataFrame:
    """Return the first documents of every source, before anything expensive is done."""
    return sample_sources(corpus, project_root())


def pack_documents(
    document_samples: pd.DataFrame,
    teacher: Checkpoint,
    corpus: CorpusSettings,
    conditions: Conditions,
    workspace: Path,
) -> PackedCorpus:
    """Tokenise with the teacher's tokenizer, pack, and check that every split is large enough.

    Raises:
        ValueError: a split is too small for the windows that the parameters ask of it, or training sequences are longer
            than the teacher's positions.
    """
    del document_samples  # only here so that sources are looked at first
    teacher.check_lengths(conditions.lengths)
    packed = open_workspace(workspace).finish(PackText.of(teacher, corpus, project_root()))
    require_text(packed, conditions.measurement, conditions.schedule)
    return packed


def count_tokens(tokens: PackedCorpus) -> pd.DataFrame:
    """Return documents and tokens of every split and source, and how many documents were left out."""
    return tokens.all_counts()
