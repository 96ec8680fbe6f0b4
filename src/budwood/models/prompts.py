"""Log-probabilities of a few prompts, with which anybody can check an engine that serves an export."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from budwood.arch.config import HFConfig
from budwood.models.rotary import changes_at, layer_rope
from budwood.records.files import write_atomically
from budwood.records.serving import CHECK, Prompt

PROMPTS = "certificate_prompts.json"
LENGTHS = (512, 100, 9)
"""Tokens of the prompts, which run as one padded batch; where a model has fewer positions, as many as it has."""
LOGPROB_TOLERANCE = 1e-3
"""Nats by which padding may change a log-probability in float32."""


@torch.no_grad()
def record_prompts(model: PreTrainedModel) -> tuple[Prompt, ...]:
    """Return prompts of several lengths with their log-probabilities, each run by itself in float32.

    Raises:
        ValueError: the model answers otherwise where the prompts run as one padded batch.
    """
    model = model.float().eval()
    lengths = prompt_lengths(_num_positions(model.config.to_dict()))
    prompts = [_ids(length, row, int(model.config.vocab_size)) for row, length in enumerate(lengths)]
    alone = [_logprobs(model, ids[None], torch.ones_like(ids)[None])[0] for ids in prompts]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True)
    together = _logprobs(model, padded, mask)
    # On tensors: Python's `max` passes over NaN.
    pairs = zip(together, alone, strict=True)
    difference = float(torch.stack([(row[: len(one)] - one).abs().max() for row, one in pairs]).max())
    if not difference <= LOGPROB_TOLERANCE:
        raise ValueError(
            f"the export answers otherwise in a padded batch: log-probabilities differ by {difference:.2e}, allowed "
            f"{LOGPROB_TOLERANCE:.0e}"
        )
    return tuple(
        Prompt(input_ids=tuple(ids.tolist()), logprobs=tuple(logprobs.tolist()))
        for ids, logprobs in zip(prompts, alone, strict=True)
    )


def prompt_lengths(positions: int | None = None) -> tuple[int, ...]:
    """Return the tokens of the prompts.

    Args:
        positions: of the model, of which engines keep one for an answer; None: enough.
    """
    return LENGTHS if positions is None else tuple(min(length, positions - 1) for length in LENGTHS)


def write_check(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts into an export, with a script that compares an engine with them."""
    text = json.dumps([prompt.model_dump(mode="json") for prompt in prompts])
    write_atomically(folder / PROMPTS, text)
    write_atomically(folder / CHECK, files("budwood.models").joinpath(CHECK).read_text(encoding="utf-8"))


def read_prompts(folder: Path) -> tuple[Prompt, ...]:
    """Return the prompts that `write_check` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    file = folder / PROMPTS
    try:
        return tuple(map(Prompt.model_validate, json.loads(file.read_text(encoding="utf-8"))))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove its folder and run again to rebuild it") from error


def _num_positions(config: HFConfig) -> int:
    """Return the positions up to which a text is answered alike whatever it is batched with.

    Beyond the original number of positions a longrope gives all texts of a batch the frequencies of long ones.
    """
    changes = (changes_at(layer_rope(config, layer)) for layer in range(int(config["num_hidden_layers"])))
    return min([int(config["max_position_embeddings"]), *filter(None, changes)])


def _ids(length: int, row: int, vocab_size: int) -> Tensor:
    return (torch.arange(1, length + 1) * 7919 + row) % vocab_size


def _logprobs(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T - 1] log-probabilities of all tokens but the first."""
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # Prompt by prompt: a batch of them has a gigabyte of logits where there are many words.
    rows = (
        row[:-1].float().log_softmax(-1).gather(-1, following[1:, None])
        for row, following in zip(logits, ids, strict=True)
    )
    return torch.stack([row[:, 0] for row in rows])
