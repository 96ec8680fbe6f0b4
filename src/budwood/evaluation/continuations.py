"""Text that models write: greedy continuations of held-out beginnings, to read and to count."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from budwood.arch.count import forward_flops_per_token, pass_flops
from budwood.arch.spec import Architecture
from budwood.corpus.tokenization import Encoder
from budwood.evaluation.settings import NEW_TOKENS, NUM_PROMPTS, PROMPT_TOKENS
from budwood.models.losses import evaluating


def continuation_flops(architecture: Architecture, prompt_tokens: int, new_tokens: int) -> int:
    """Return the FLOPs of a prompt in one pass and of one step for every further token but the last.

    Of a prompt the head reads the last position only.
    """
    steps = range(prompt_tokens + 1, prompt_tokens + new_tokens)
    written = sum(forward_flops_per_token(architecture, context=context) for context in steps)
    return pass_flops(architecture, prompt_tokens, context=prompt_tokens, num_logits=1) + written


def heldout_prompts(
    texts: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_prompts: int = NUM_PROMPTS,
    num_tokens: int = PROMPT_TOKENS,
) -> dict[str, list[int]]:
    """Return beginnings of held-out documents, of every source in turn; equal arguments give equal prompts.

    All have equally many tokens, so that they can be continued together, and end before a new word; for that, the first
    tokens of a document may be missing.

    Args:
        texts: documents by source, as of `heldout.read_texts`.
        tokenizer: of the models. Special tokens that are written in a text are text, as in a packed corpus.
        num_prompts: how many are wanted; fewer are returned where too few documents are long enough.
        num_tokens: of a prompt. A document must have twice as many.

    Returns:
        token ids by text.
    """
    turns = zip_longest(*(_beginnings(documents, tokenizer, num_tokens) for documents in texts.values()))
    return dict(islice((prompt for turn in turns for prompt in turn if prompt), num_prompts))


def _beginnings(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, num_tokens: int
) -> Iterator[tuple[str, list[int]]]:
    encoder = Encoder.of(tokenizer)
    for text in documents:
        # Of a long document a part: a token has fewer characters than this.
        (ids,) = encoder.encode([text[: 64 * num_tokens]])
        # Without the token that ends a document.
        for end in range(num_tokens, min(2 * num_tokens, len(ids) - 1 - num_tokens)):
            prompt, more = (str(tokenizer.decode(ids[end - num_tokens : stop])) for stop in (end, end + 1))
            if more[len(prompt) :][:1].isspace():
                yield prompt, ids[end - num_tokens : end].tolist()
                break


@torch.no_grad()
def continue_prompts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos_token_id: int,
    bos_token_id: int | None = None,
    new_tokens: int = NEW_TOKENS,
) -> list[list[int]]:
    """Return the most likely next tokens of each prompt, one by one with the cache, up to the end of a document.

    Args:
        model: any causal language model, where it is to run.
        prompts: token ids, equally many of each.
        eos_token_id: ends a document.
        bos_token_id: begins every prompt, as it begins the sequences of a corpus.
        new_tokens: tokens to append, at most.
    """
    ids = _begun(prompts, bos_token_id).to(model.device)
    written: list[Tensor] = []
    with evaluating(model):
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        while True:
            token = output.logits[:, -1].argmax(-1, keepdim=True)
            written.append(token.cpu())
            ended = (torch.cat(written, 1) == eos_token_id).any(1)
            if len(written) == new_tokens or ended.all():
                break
            output = model(input_ids=token, cache=output.cache, use_cache=True)
    rows: list[list[int]] = torch.cat(written, 1).tolist()
    return [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in rows]


def _begun(rows: Sequence[Sequence[int]], bos_token_id: int | None) -> Tensor:
    first = [] if bos_token_id is None else [bos_token_id]
    return torch.tensor([[*first, *row] for row in rows])


@torch.no_grad()
def agreement(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    bos_token_id: int | None = None,
) -> list[float]:
    """Return for every prompt the share of another model's tokens that are this model's likeliest too.

    Args:
        model: any causal language model, where it is to run.
        prompts: token ids, equally many of each.
        continuations: what the other one wrote; every token is compared after all of its own before it.
        bos_token_id: begins every prompt.
    """
    begun, written = _begun(prompts, bos_token_id), [torch.tensor(row) for row in continuations]
    ids = torch.cat([begun, pad_sequence(written, batch_first=True)], 1)[:, :-1]
    with evaluating(model):
        output = model(input_ids=ids.to(model.device), logits_to_keep=ids.shape[1] - begun.shape[1] + 1)
    likeliest = output.logits.argmax(-1).cpu()
    # What pads shorter rows comes after all that is compared.
    return [float((own[: len(row)] == row).float().mean()) for own, row in zip(likeliest, written, strict=True)]


def repetition(ids: Sequence[int]) -> float:
    """Return the share of sequences of four tokens that occurred before; 0 where there is none."""
    return 1 - _share_of_different(ids, 4)


def distinct(ids: Sequence[int]) -> float:
    """Return the share of different ones among pairs of tokens; 1 where there is none."""
    return _share_of_different(ids, 2)


def _share_of_different(ids: Sequence[int], length: int) -> float:
    sequences = list(zip(*(ids[first:] for first in range(length)), strict=False))
    return len(set(sequences)) / len(sequences) if sequences else 1.0
