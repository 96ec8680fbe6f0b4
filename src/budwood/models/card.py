"""The model card of an export, in the conventions of the Hugging Face Hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from budwood.arch.count import kv_cache_bytes_per_token, num_parameters
from budwood.arch.spec import Architecture
from budwood.models.engines import engines_table
from budwood.models.export import CERTIFICATE
from budwood.records.serving import CHECK, OpensIn
from budwood.records.teacher import TeacherRecord

_LEAD = """A dense sub-network of a pretrained language model, found by search and cut out by budwood. It is a starting
point for further pretraining or distillation, not a finished model."""
_TRAINED_LEAD = (
    """A dense sub-network of a pretrained language model, found by search, cut out and trained by budwood."""
)
LICENSES = frozenset(
    {
        "apache-2.0", "bigscience-openrail-m", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
        "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "gemma", "gpl-3.0", "llama2", "llama3", "llama3.1",
        "llama3.2", "llama3.3", "mit", "odc-by", "openrail",
    }
)  # fmt: skip
"""Identifiers of the Hub for licences that models and texts have (hub documentation, "Licenses")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A number that a card reports."""

    metric: str
    """Such as `loss` or `accuracy`."""
    value: float
    unit: str
    """What the number counts, such as `nats per token`."""
    data: str
    """Name of the text or task."""
    when: str
    """State of the model, such as `before any training`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSource:
    """A text that took part."""

    name: str
    license: str
    attribution: str = ""
    dataset: str | None = None
    """Its id on the Hub, where it has one."""
    language: str | None = None
    """Two-letter code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model card says."""

    architecture: Architecture
    """Of the child, layers in depth order."""
    teacher: TeacherRecord
    sources: Sequence[CardSource]
    cut: Mapping[str, str]
    """How it was cut, by heading."""
    measured: Sequence[Measurement]
    native: bool
    """Whether the model is of a stock class."""
    opens_in: OpensIn = field(default_factory=dict)
    commands: Sequence[str] = ()
    """What serves it, in the engines that open it or were not tried."""
    training: str | None = None
    """How it was trained since; None where it was not."""
    chat: str | None = None
    """What became of the chat template; None where the teacher has none."""

    def text(self) -> str:
        """Return the card in Markdown."""
        count = num_parameters(self.architecture)
        what = {
            "Architecture": self.architecture.describe(),
            "Parameters": f"{count:,} ({count / self.teacher.num_parameters:.1%} of the teacher)",
            "KV cache": f"{kv_cache_bytes_per_token(self.architecture):,} bytes per token in 16 bits",
        }
        rest = {"Training since": self.training, "Chat": self.chat}
        known = {name: text for name, text in rest.items() if text is not None}
        teacher = f"{self.teacher.name}, revision {self.teacher.revision}, fingerprint {self.teacher.fingerprint}"
        texts = {source.name: f"{source.license}. {source.attribution}".rstrip() for source in self.sources}
        licenses = {"Teacher": f"{self.teacher.license}. {self.teacher.attribution}".rstrip()} | texts
        return f"""---
{self._metadata()}
---

# {self._title()}

{_LEAD if self.training is None else _TRAINED_LEAD}

{_usage(native=self.native)}

## What it is

{_bullets(what | known)}

## Measured

{_measured(self.measured)}

## How it was cut

{_bullets({"Teacher": teacher} | dict(self.cut))}
- Proof: `{CERTIFICATE}` compares this folder, loaded again, with the child in memory

{self._serving()}## Licences and attribution

{_bullets(licenses)}
"""

    def _title(self) -> str:
        return f"{num_parameters(self.architecture) / 1e6:.1f}M parameters cut from {self.teacher.name}"

    def _metadata(self) -> str:
        known = self.teacher.license.lower() in LICENSES
        license_ = (
            {"license": self.teacher.license.lower()}
            if known
            else {"license": "other", "license_name": self.teacher.license}
        )
        # The Hub takes ids of its own for these; names of local files would be dead links.
        on_hub = "/" in self.teacher.name
        facts: dict[str, Any] = {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            **license_,
            "base_model": self.teacher.name if on_hub else None,
            "base_model_relation": "finetune" if on_hub else None,
            "datasets": sorted({source.dataset for source in self.sources if source.dataset}) or None,
            "language": sorted({source.language for source in self.sources if source.language}) or None,
            "tags": ["budwood", "sub-network"],
        }
        if self.measured:
            facts |= {"model_name": self._title(), "eval_results": [_result(one) for one in self.measured]}
        return str(ModelCardData(**facts).to_yaml())

    def _serving(self) -> str:
        if not self.opens_in:
            return ""
        return f"""## Serving

{engines_table(self.opens_in)}

`python {CHECK} ENGINE`, with the Python that has the engine, compares it with the log-probabilities that the child in
memory had.

{_commands(self.commands)}"""


def _commands(commands: Sequence[str]) -> str:
    listed = "\n".join(commands)
    return f"To serve this folder, from within it:\n\n```\n{listed}\n```\n\n" if commands else ""


def _measured(measured: Sequence[Measurement]) -> str:
    rows = [
        f"| {one.metric[:1].upper()}{one.metric[1:]} | {one.value:.3f} {one.unit} | {one.data} | {one.when} |"
        for one in measured
    ]
    return "\n".join(["| measure | value | on | model |", "|---|---|---|---|", *rows]) if rows else "Nothing."


def _result(one: Measurement) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=re.sub(r"\W+", "_", one.data.lower()),
        dataset_name=one.data,
        metric_type=one.metric,
        metric_value=one.value,
        metric_name=f"{one.unit}, {one.when}",
    )


def _usage(*, native: bool) -> str:
    trust = "" if native else ", trust_remote_code=True"
    kind = (
        "A stock transformers class."
        if native
        else "No stock class has layers of these sizes: its own travels with the weights, in `modeling.py`."
    )
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one, or its id on a hub
model = AutoModelForCausalLM.from_pretrained(folder{trust})
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
```

{kind}"""


def _bullets(entries: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())
