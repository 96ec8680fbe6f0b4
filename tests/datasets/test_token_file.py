"""Packed corpora travel as folders too."""

import inspect
import json

import numpy as np
import pandas as pd
import pytest
from corpora import tokenize_and_pack
from kedro.io import DatasetError
from kedro_datasets._typing import JSONPreview
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from budwood.corpus.packing import TOKENS_FILE
from budwood.datasets.token_file import TokenFileDataset
from budwood.records.runs import WORKSPACE


@pytest.fixture
def corpus(tmp_path):
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "word": 1, "other": 2}, unk_token="<eos>"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")  # noqa: S106
    documents = pd.DataFrame({"source": ["a", "a"], "split": ["train", "validation"], "text": ["word", "other"]})
    return tokenize_and_pack(
        documents, tokenizer, seed=0, folder=tmp_path / "data" / WORKSPACE / "text-1", progress=False
    )


@pytest.fixture
def dataset(tmp_path):
    return TokenFileDataset(filepath=str(tmp_path / "data" / "packed"))


def test_what_is_saved_is_loaded_memory_mapped(dataset, corpus, tmp_path):
    assert not dataset.exists()
    dataset.save(corpus)
    assert dataset.exists()
    loaded = dataset.load()
    assert isinstance(loaded.tokens, np.memmap)
    assert loaded.tokens.tolist() == [1, 0, 2, 0]
    assert (loaded.folder, loaded.fingerprint) == (tmp_path / "data" / "packed", corpus.fingerprint)
    assert (loaded.folder / TOKENS_FILE).samefile(corpus.folder / TOKENS_FILE)
    dataset.save(loaded)
    assert dataset.load().fingerprint == corpus.fingerprint


def test_a_truncated_file_is_reported(dataset, corpus):
    dataset.save(corpus)
    path = dataset.load().folder / TOKENS_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=rf"{path} does not fit its index.json .*: remove {path.parent} to pack"):
        dataset.load()


def test_a_corpus_without_its_tokens_does_not_exist(dataset, corpus):
    dataset.save(corpus)
    (dataset.load().folder / TOKENS_FILE).unlink()
    assert not dataset.exists()


def test_kedro_viz_sees_the_index(dataset, corpus):
    dataset.save(corpus)
    assert inspect.signature(dataset.preview).return_annotation is JSONPreview
    assert json.loads(dataset.preview())["segments"]["train"]["a"] == {"start": 0, "stop": 2, "documents": 1}
    assert "data/packed" in repr(dataset)
