"""Text that models write: greedy continuations of held-out prompts, for people to read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from budwood.arch.count import forward_flops_per_token
from budwood.arch.spec import Architecture
from budwood.corpus.tokenization import Encoder
from budwood.models.losses import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A prompt and the text that a model appends to it."""

    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens that the model read: all but the last one that it wrote."""
        return self.prompt_tokens + self.new_tokens - 1

    def flops(self, architecture: Architecture) -> int:
        """Return the FLOPs of the prompt in one pass and of one step for every further token."""
        steps = (
            forward_flops_per_token(architecture, context=context)
            for context in range(self.prompt_tokens + 1, self.num_tokens + 1)
        )
        return self.prompt_tokens * forward_flops_per_token(architecture, context=self.prompt_tokens) + sum(steps)


def heldout_prompts(texts: Mapping[str, Sequence[str]], *, num_prompts: int = 3, num_words: int = 24) -> list[str]:
    """Return the first words of held-out documents, of every source in turn; equal arguments give equal prompts.

    Args:
        texts: documents by source, as of `heldout.read_texts`.
        num_prompts: how many are wanted; fewer are returned where too few documents are long enough.
        num_words: words of a prompt. A document must have twice as many.
    """
    turns = zip_longest(*(_beginnings(documents, num_words) for documents in texts.values()))
    return list(islice((prompt for turn in turns for prompt in turn if prompt), num_prompts))


def _beginnings(documents: Sequence[str], num_words: int) -> Iterator[str]:
    for text in documents:
        words = list(islice(re.finditer(r"\S+", text), 2 * num_words))
        if len(words) == 2 * num_words:
            yield text[words[0].start() : words[num_words - 1].end()]


@torch.no_grad()
def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    bos_token_id: int | None = None,
    new_tokens: int = 48,
) -> list[Continuation]:
    """Return the most likely next tokens of each prompt, one by one with the cache, up to the end of a document.

    Args:
        model: any causal language model, where it is to run.
        tokenizer: of the model.
        prompts: texts; special tokens that are written in them are text, as in a packed corpus.
        bos_token_id: begins every prompt, as it begins the sequences of a corpus.
        new_tokens: tokens to append, at most.
    """
    first = [] if bos_token_id is None else [bos_token_id]
    # Without the token that ends a document.
    ids = [[*first, *tokens[:-1].tolist()] for tokens in Encoder.of(tokenizer).encode(list(prompts))]
    with evaluating(model):
        return [
            _continue(model, tokenizer, prompt, torch.tensor([row]), new_tokens)
            for prompt, row in zip(prompts, ids, strict=True)
        ]


def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, ids: Tensor, new_tokens: int
) -> Continuation:
    read = ids.to(model.device)
    written: list[int] = []
    output = model(input_ids=read, use_cache=True, logits_to_keep=1)
    while True:
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        written.append(int(token))
        if len(written) == new_tokens or written[-1] == tokenizer.eos_token_id:
            break
        output = model(input_ids=token, cache=output.cache, use_cache=True)
    text = str(tokenizer.decode(written, skip_special_tokens=True))
    return Continuation(prompt=prompt, text=text, prompt_tokens=read.shape[1], new_tokens=len(written))
