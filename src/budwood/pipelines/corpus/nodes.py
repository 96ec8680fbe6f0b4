"""Read, split, tokenise and pack text."""

from pathlib import Path

import pandas as pd

from budwood.corpus.documents import load_corpus
from budwood.corpus.packing import INDEX_FILE, PackedCorpus, fingerprint_tokenizer, tokenize_and_pack
from budwood.corpus.windows import require_windows
from budwood.parameters import CorpusParameters, MeasurementParameters
from budwood.pipelines.work import claim
from budwood.subnet.checkpoint import load_tokenizer
from budwood.training.job import Schedule
from budwood.training.run import check_positions, training_order


def read_documents(corpus: CorpusParameters) -> pd.DataFrame:
    """Return all documents with their source and split."""
    return load_corpus(corpus.text_sources(), corpus.seed)


def pack_documents(
    documents: pd.DataFrame,
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
    tokenizer = load_tokenizer(teacher)
    text_hash = int(pd.util.hash_pandas_object(documents, index=False).sum())
    facts = {"documents": text_hash, "seed": corpus.seed, "tokenizer": fingerprint_tokenizer(tokenizer)}
    folder = claim(workspace, "corpus", facts) / "tokens"
    packed = (
        PackedCorpus.open(folder)
        if (folder / INDEX_FILE).is_file()
        else tokenize_and_pack(documents, tokenizer, seed=corpus.seed, directory=folder)
    )
    require_windows(packed, measurement.length, measurement.searched, per_source=False)
    require_windows(packed, measurement.length, measurement.reported, per_source=True)
    training_order(packed, schedule)
    return packed


def count_tokens(tokens: PackedCorpus) -> pd.DataFrame:
    """Return documents and tokens of every split and source."""
    return tokens.counts()
