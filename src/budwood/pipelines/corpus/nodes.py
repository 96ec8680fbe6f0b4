"""Look at text, tokenise and pack it."""

from pathlib import Path

import pandas as pd
from kedro.utils import find_kedro_project

from budwood.corpus.ingestion import describe_sources, sample_sources, tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.tokenization import fingerprint_tokenizer
from budwood.corpus.windows import require_windows
from budwood.models.checkpoint import load_config, load_tokenizer
from budwood.parameters import CorpusParameters, MeasurementParameters
from budwood.pipelines.work import claim
from budwood.training.run import check_positions, training_order
from budwood.training.settings import Schedule


def sample_documents(corpus: CorpusParameters) -> pd.DataFrame:
    """Return the first documents of every source, before anything expensive is done."""
    return sample_sources(corpus, _root())


def pack_documents(
    document_samples: pd.DataFrame,
    teacher: Path,
    corpus: CorpusParameters,
    measurement: MeasurementParameters,
    schedule: Schedule,
    workspace: Path,
) -> PackedCorpus:
    """Tokenise with the teacher's tokenizer, pack, and check that every split is large enough.

    Raises:
        ValueError: a split is too small for the windows that the parameters ask of it, or training sequences are longer
            than the teacher's positions.
    """
    check_positions(teacher, schedule.sequence_length)
    del document_samples  # only here so that sources are looked at first
    tokenizer = load_tokenizer(teacher)
    # Text that has changed is recognised by what stands in the folder.
    facts = {
        "sources": describe_sources(corpus),
        "seed": corpus.seed,
        "tokenizer": fingerprint_tokenizer(tokenizer),
    }
    packed = tokenize_sources(
        corpus,
        tokenizer,
        directory=claim(workspace, "corpus", facts) / "tokens",
        root=_root(),
        vocab_size=int(load_config(teacher)["vocab_size"]),
    )
    require_windows(packed, measurement.length, measurement.searched, per_source=False)
    require_windows(packed, measurement.length, measurement.reported, per_source=True)
    training_order(packed, schedule)
    return packed


def count_tokens(tokens: PackedCorpus) -> pd.DataFrame:
    """Return documents and tokens of every split and source."""
    return tokens.counts()


def _root() -> Path:
    """The project's root, where relative paths of text begin."""
    return find_kedro_project(Path.cwd()) or Path.cwd()
