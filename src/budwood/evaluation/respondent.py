"""A model as lm_eval asks it, which counts its work and the questions that do not fit."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from budwood.arch.count import pass_flops
from budwood.corpus.tokenization import begin_texts
from budwood.models.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.models.device import Compute

_HARNESS = "lm_eval.models.huggingface"
_CUT = "Combined length of context"
"""Begins the warning that lm_eval gives for every request it cuts; tasks report their number instead."""


class Respondent(HFLM):  # type: ignore[misc]  # lm_eval ships no types
    """A checkpoint in lm_eval."""

    def __init__(self, folder: Path, compute: Compute, batch_size: int, bos_token_id: int | None) -> None:
        """Load a checkpoint here and not in the harness, so that no code that came with it runs.

        Args:
            folder: the checkpoint with its tokenizer.
            compute: where it runs.
            batch_size: requests of one forward pass.
            bos_token_id: begins every request, as it begins the sequences of a corpus. Without one, a continuation of
                nothing follows the end of a text, which is what precedes every document of a corpus.
        """
        self.tokens, self.flops = 0, 0.0
        """What the model computed, padding included."""
        self.cut: set[str | tuple[str, str]] = set()
        """Requests cut at their left to fit: a prompt, or a context with its continuation."""
        self._architecture = read_architecture(folder)
        model = compute.place(load_model(folder, compute.dtype))
        model.register_forward_pre_hook(self._count, with_kwargs=True)
        tokenizer = load_tokenizer(folder)
        begin_texts(tokenizer, bos_token_id)
        with _filtered(lambda record: record.levelno >= logging.ERROR):  # it warns that it was given a loaded model
            before = tokenizer.eos_token_id if bos_token_id is None else bos_token_id
            super().__init__(model, tokenizer=tokenizer, batch_size=batch_size, prefix_token_id=before)

    def _count(self, _: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        batch, length = (arguments[0] if arguments else named["input_ids"]).shape
        cache = named.get("cache")
        context = length + (cache.get_seq_length() if cache is not None else 0)
        self.tokens += batch * length
        # What generates asks for the last position of a prompt alone.
        num_logits = named.get("logits_to_keep") or length
        self.flops += batch * pass_flops(self._architecture, length, context=context, num_logits=num_logits)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **named: Any
    ) -> Any:
        self.cut |= {
            texts
            for texts, context, continuation in requests
            # The last token is predicted and not read; rolling windows, which always fit, carry no texts.
            if texts is not None and len(context) + len(continuation) > self.max_length + 1
        }
        with _filtered(lambda record: not record.getMessage().startswith(_CUT)):
            return super()._loglikelihood_tokens(requests, *args, **named)

    def tok_batch_encode(  # the signature is the harness's
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor]:
        """Return [B, T] token ids and their mask, of prompts to go on from."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len is None:
            return ids, mask
        lengths = mask.sum(1).tolist()
        self.cut |= {text for text, length in zip(strings, lengths, strict=True) if length > left_truncate_len}
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]

    def was_cut(self, arguments: Sequence[Sequence[Any]]) -> bool:
        """Return whether a request of a question was cut.

        Args:
            arguments: of its requests: a context and a continuation, or a prompt and settings of generation.
        """
        return any(own[0] in self.cut or tuple(map(str, own[:2])) in self.cut for own in arguments)


@contextmanager
def _filtered(passes: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Let pass only some of what the harness logs about models."""
    logger = logging.getLogger(_HARNESS)
    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)
