"""Means over sequences with their standard errors."""

import math
from collections.abc import Sequence

import numpy as np


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error (ddof = 1); the error of a single value is NaN.

    Raises:
        ValueError: there is no value.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise ValueError("values: empty; at least one sequence is needed")
    error = array.std(ddof=1) / np.sqrt(array.size) if array.size > 1 else np.nan
    return float(array.mean()), float(error)


def ratio_and_error(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Return the ratio of two sums over sequences and its standard error.

    The error is that of the mean residual `numerator - ratio * denominator` over the mean denominator: the usual
    linearisation of a ratio estimator (Cochran, "Sampling Techniques", 1977, section 6.4). NaN for one sequence.

    Raises:
        ValueError: the numbers of sequences differ or are zero, or the denominators sum to zero.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.size != bottom.size:
        raise ValueError(f"numerators and denominators: {top.size} and {bottom.size} sequences; they need the same")
    if not bottom.sum() > 0:
        raise ValueError(f"denominators: must sum to more than 0, got {bottom.sum()}")
    ratio = float(top.sum() / bottom.sum())
    _, error = mean_and_error(top - ratio * bottom)
    return ratio, error / float(bottom.mean())


def summarise(
    losses: Sequence[float] | np.ndarray, num_bytes: Sequence[int] | np.ndarray, tokens_per_sequence: int
) -> dict[str, float]:
    """Return perplexity, loss and bits per byte over sequences of equal length, with standard errors.

    Bits per byte are all bits that the sequences cost, ends of documents included, over the bytes of their text: a
    measure in which models with different tokenizers compare.

    Args:
        losses: mean loss of each sequence, nats per token.
        num_bytes: bytes of the predicted text of each sequence.
        tokens_per_sequence: predicted tokens of a sequence.

    Returns:
        `perplexity`; `loss` and `standard_error` in nats per token; `bits_per_byte` and
        `bits_per_byte_standard_error`.
    """
    loss, error = mean_and_error(losses)
    bits = np.asarray(losses, dtype=float) * tokens_per_sequence / math.log(2)
    bits_per_byte, bits_error = ratio_and_error(bits, num_bytes)
    return {
        "perplexity": float(np.exp(loss)),
        "loss": loss,
        "standard_error": error,
        "bits_per_byte": bits_per_byte,
        "bits_per_byte_standard_error": bits_error,
    }
