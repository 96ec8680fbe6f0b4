"""Held-out losses are those that Hugging Face computes, sequence by sequence and source by source."""

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import tokenize_and_pack
from transformers import AutoModelForCausalLM

from budwood.evaluation.perplexity import source_bytes, source_losses
from budwood.models.checkpoint import load_model
from budwood.models.teacher import byte_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two sources with a validation split; a third has none."""
    rng = np.random.default_rng(0)
    rows = [
        (split, source, "".join(rng.choice(list("abc"), 100)))
        for split, source in [("validation", "one"), ("validation", "two"), ("validation", "two"), ("train", "three")]
    ]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    folder = tmp_path_factory.mktemp("corpus") / "packed"
    return tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=folder, progress=False)


def test_losses_equal_those_of_hugging_face(folder, corpus):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = source_losses(model, corpus, "validation", (10, 5), "child")
    assert list(losses) == ["one", "two"]
    for source, values in losses.items():
        windows = torch.from_numpy(corpus.windows("validation", 10, source=source, limit=5))
        with torch.no_grad():
            expected = [float(model(input_ids=row[None], labels=row[None]).loss) for row in windows]
        assert values == pytest.approx(expected, rel=1e-5)


def test_a_source_that_is_too_short_is_refused(folder, corpus):
    with pytest.raises(ValueError, match=r"has 10 windows of length=10 \(101 tokens of one\), asked for 15"):
        source_losses(load_model(folder, torch.float32), corpus, "validation", (10, 15), "child")


def test_sources_are_those_of_the_split(corpus):
    assert corpus.sources("validation") == ["one", "two"]
    assert corpus.sources("train") == ["three"]


def test_bytes_are_those_of_the_predicted_text(corpus):
    """A byte tokenizer: every token a byte, but the end of a document, which stands after 100 of them."""
    assert source_bytes(byte_tokenizer(), corpus, "validation", (10, 5)) == {"one": [10] * 5, "two": [10] * 5}
    assert source_bytes(byte_tokenizer(), corpus, "validation", (50, 2)) == {"one": [50, 49], "two": [50, 49]}
