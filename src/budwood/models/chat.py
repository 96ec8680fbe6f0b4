"""Whether a child still takes part in a conversation, as its teacher's tokenizer formats one."""

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUESTION = "What is the capital of France?"
MAX_ANSWER_TOKENS = 64


@torch.no_grad()
def describe_chat(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Ask a question in the form of the chat template, and say what came of it.

    Returns:
        a sentence for the card; None where the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        return None
    asked = [{"role": "user", "content": QUESTION}]
    try:
        prompt = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
    except (TemplateError, ValueError, TypeError) as error:
        return f"the teacher's template is kept, but it does not format a question by itself: {error}"
    assert isinstance(prompt, torch.Tensor)
    ends = model.generation_config.eos_token_id if model.generation_config else tokenizer.eos_token_id
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=MAX_ANSWER_TOKENS,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
    )[0, prompt.shape[1] :].tolist()
    stops = set(ends if isinstance(ends, list) else [ends])
    if answer and answer[-1] in stops:
        return (
            f"the teacher's template is kept; asked a question in it, the model ends its answer after {len(answer)} "
            "tokens"
        )
    return (
        f"the teacher's template is kept, but asked a question in it, the model does not end its answer within "
        f"{MAX_ANSWER_TOKENS} tokens: train it on conversations first"
    )
