"""Write a child as a folder that other tools open: weights, code where needed, tokenizer, card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from budwood.arch.count import kv_cache_bytes_per_token, num_parameters
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_tokenizer, save_checkpoint

CARD = "README.md"
CERTIFICATE = "certificate.json"


def write_checkpoint(model: PreTrainedModel, teacher_folder: Path, target: Path) -> Path:
    """Write a model with its teacher's tokenizer and generation settings, atomically, and return the folder."""
    if (teacher_folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(teacher_folder)
    return save_checkpoint(model, load_tokenizer(teacher_folder), target)


def model_card(
    architecture: Architecture,
    teacher: Mapping[str, Any],
    sources: Sequence[Mapping[str, str]],
    cut: Mapping[str, str],
    figures: Mapping[str, str],
    *,
    native: bool,
) -> str:
    """Return the model card of an export.

    Args:
        architecture: the child's, layers in depth order.
        teacher: `name`, `revision`, `fingerprint`, `num_parameters`, `license`, `attribution`.
        sources: `name`, `license`, `attribution` of every text that took part.
        cut: how it was cut, in the order to be told.
        figures: what was measured, in the order to be told.
        native: whether the model is of a stock class.
    """
    texts = {source["name"]: f"{source['license']}. {source['attribution']}".rstrip() for source in sources}
    count = num_parameters(architecture)
    what = {
        "Architecture": architecture.describe(),
        "Parameters": f"{count:,} ({count / teacher['num_parameters']:.1%} of the teacher)",
        "KV cache": f"{kv_cache_bytes_per_token(architecture):,} bytes per token in 16 bits",
    }
    origin = f"{teacher['name']}, revision {teacher['revision']}, fingerprint {teacher['fingerprint']}"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {teacher["name"]}
license: other
tags: [budwood, sub-network]
---

# {count / 1e6:.1f}M parameters cut from {teacher["name"]}

A dense sub-network of a pretrained language model, found by search and cut out by budwood. It is a starting point for
further pretraining or distillation, not a finished model.

{_usage(native=native)}

## What it is

{_bullets(what | dict(figures))}

## How it was cut

{_bullets({"Teacher": origin} | dict(cut))}
- Proof: `{CERTIFICATE}` compares this folder, loaded anew, with the child in memory

## Licences and attribution

{_bullets({"Teacher": f"{teacher['license']}. {teacher['attribution']}"} | texts)}
"""


def _usage(*, native: bool) -> str:
    trust = "" if native else ", trust_remote_code=True"
    kind = (
        "A stock transformers class."
        if native
        else "No stock class has layers of these sizes: its own travels with the weights, in `modeling.py`."
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder{trust})
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
```

{kind}"""


def _bullets(entries: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())
