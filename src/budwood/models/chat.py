"""Whether a child still takes part in a conversation, as its teacher's tokenizer formats one."""

from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUESTION = "What is the capital of France?"
MAX_ANSWER_TOKENS = 64
MAX_TOKENS = 2 * MAX_ANSWER_TOKENS
"""Of question and answer, about: a template adds some tens of tokens to the question."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What came of a question."""

    description: str | None
    """A sentence for the card; None where the tokenizer has no chat template."""
    num_tokens: int
    """Of question and answer."""


@torch.no_grad()
def ask_question(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Chat:
    """Ask a question in the form of the chat template, and return what came of it."""
    if not tokenizer.chat_template:
        return Chat(None, 0)
    asked = [{"role": "user", "content": QUESTION}]
    try:
        prompt = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
    except (TemplateError, ValueError, TypeError) as error:
        return Chat(f"the teacher's template is kept, but it does not format a question by itself: {error}", 0)
    assert isinstance(prompt, torch.Tensor)
    ends = model.generation_config.eos_token_id if model.generation_config else tokenizer.eos_token_id
    written = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
    )[0].tolist()
    answer, stops = written[prompt.shape[1] :], set(ends if isinstance(ends, list) else [ends])
    if answer and answer[-1] in stops:
        found = f"asked a question in it, the model ends its answer after {len(answer)} tokens"
        return Chat(f"the teacher's template is kept; {found}", len(written))
    found = f"asked a question in it, the model does not end its answer within {MAX_ANSWER_TOKENS} tokens"
    return Chat(f"the teacher's template is kept, but {found}: train it on conversations first", len(written))
