"""A few real tokens on which two readings of one model must agree."""

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXT = (
    "When the rains came late that year, the gardener walked along the old wall and counted 27 apple trees. "
    "“Not one of them will bear,” she said, and went on: in spring, a graft takes; in autumn (so her "
    "teacher had written in 1893) it does not. def prune(tree): return [branch for branch in tree if branch.alive]"
)
"""Prose, figures, quotation marks and code."""
PROBE_TOLERANCE = 1e-4
"""Largest accepted difference of float32 logits, as a share of the largest logit where that is above one."""
NUM_TOKENS = 48


def probe_ids(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, longest: int, num_tokens: int = NUM_TOKENS
) -> Tensor:
    """Return [1, T] the first tokens of the probe, which begins again where it ends.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the model's embedding.
        longest: the most tokens that the model sees at once.
        num_tokens: how many, where the model sees as many.

    Raises:
        ValueError: the tokenizer makes no tokens, or ids that the model does not have.
    """
    text = " ".join([TEXT] * (1 + num_tokens // NUM_TOKENS))
    ids = cast("list[int]", tokenizer(text).input_ids)[: min(num_tokens, longest)]
    if not ids:
        raise ValueError("tokenizer: it makes no tokens of plain text")
    if max(ids) >= vocab_size:
        raise ValueError(f"tokenizer: it makes the id {max(ids)}, the model has {vocab_size} (vocab_size)")
    return torch.tensor([ids])


@torch.no_grad()
def probe_logits(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Return [1, T, V] a model's logits in float32."""
    logits: Tensor = model.eval()(input_ids=input_ids.to(model.device), use_cache=False).logits
    return logits.float().cpu()


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two models' [..., V] logits, as a share of the largest where that is above one.

    Logits that are not finite are infinitely different.
    """
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp_min(1))
