"""Small tokenizers: one whose ids can be read off the text, word w7 has the id 7, and one of parts of words."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

EOS = 0


def make_tokenizer(num_words: int = 100, eos: str | None = "<eos>") -> PreTrainedTokenizerFast:
    """Words w1, w2, ... with ids 1, 2, ...; a template that would put <eos> before each text if it were allowed."""
    vocabulary = {"<eos>": EOS} | {f"w{number}": number for number in range(1, num_words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, model_max_length=4)


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of the most frequent parts of texts; <end> has the id 0."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")  # noqa: S106 - a token of text


def split_documents(tokens) -> list[tuple[int, ...]]:
    """The documents of a row of tokens, as tuples of ids; the last one must be ended."""
    documents, words = [], []
    for token in tokens.tolist():
        if token == EOS:
            documents.append(tuple(words))
            words = []
        else:
            words.append(token)
    assert not words
    return documents
