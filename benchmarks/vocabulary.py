"""What part of a vocabulary is worth: cuts of equal size from teachers that keep fewer and fewer of their tokens.

A teacher is cut to the hand-picked half of `cuts.py`. A teacher that keeps only the tokens that Wikipedia's training
text uses most is cut to as many parameters: what its embedding saves goes into more layers, then into more neurons,
until it is whole. Layers are ranked once, with the whole vocabulary; all else is ranked on the tokens that are kept.
Cuts are corrected but not refitted, then trained on equally many tokens, by cross-entropy and with the same peak rate
(one seed).

Gemma 3 270M is mostly vocabulary: with half of its tokens the whole decoder has fewer parameters than that half. So
`--parameters` compares smaller cuts: those of the whole decoder with the fewest tokens. A vocabulary whose embedding
leaves no room for layers is left out.

Losses per token do not compare between vocabularies, so all models read the same passages of packed text, of 192 tokens
each in the whole vocabulary. ± is one standard error over passages, of differences in pairs.

Usage: python benchmarks/vocabulary.py [--teacher smollm2_135m] [--sizes 32768 16384 8192] [--tokens 16384]
[--passages 32] [--parameters N]; cuts and trainings that are finished are kept in the cache folder. A quarter of an
hour on one core.

Last line: a JSON object with `teacher`, `tokens` (of each training), `parameters` (of the largest cut that is allowed),
and a list for each figure, the largest vocabulary first: `sizes`, `tokens_per_byte` of the passages,
`teacher_parameters`, `cut_parameters`, `num_layers` and `intermediate_size` of the cut; of `teacher`, `cut` and
`trained` the `_bits` per byte, and how many more they are than with the first vocabulary (`_change`), as pairs of mean
and error.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from cuts import CASES, Shape, sized
from quickstart import CACHE_DIR, LENGTH, TEACHERS, TeacherName, open_quickstart, windows
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from budwood import Checkpoint, Compensation, Schedule, Selection, SpaceSettings, Study
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.evaluation.bytes import ByteCounter
from budwood.evaluation.statistics import ratio_and_error
from budwood.models.losses import final_states, logits_of

SPACE = SpaceSettings(layerwise=False, layer_score="change", compensation=Compensation())
NUM_TOKENS = 192
"""Passages of so many tokens have at most LENGTH, to which models are trained, in a smaller vocabulary."""

Bits = Sequence[float]


@dataclass(frozen=True)
class Extent:
    """How much is measured of a teacher, unless it is said otherwise."""

    sizes: Sequence[int]
    """Of the vocabularies beside the whole one."""
    tokens: int
    batch: int
    passages: int
    dtype: torch.dtype = torch.float32
    """Of the weights that passages are read with."""


EXTENTS: Mapping[TeacherName, Extent] = {
    "smollm2_135m": Extent((32_768, 16_384, 8192), tokens=16_384, batch=4, passages=32),
    "gemma3_270m": Extent((196_608, 131_072, 65_536, 32_768), tokens=2048, batch=2, passages=16, dtype=torch.bfloat16),
}


@dataclass(frozen=True)
class Passages:
    """What all models read: packed text, as training has it."""

    texts: tuple[tuple[str, str], ...]
    """The token of the whole vocabulary that comes before, and what is predicted."""
    num_bytes: tuple[int, ...]

    @classmethod
    def of(cls, whole: Study, count: int) -> Self:
        """Return validation text in windows of a teacher with its whole vocabulary."""
        tokenizer, counter = whole.teacher.load_tokenizer(), ByteCounter.of(whole.teacher.load_tokenizer())
        texts, num_bytes = [], []
        for window in windows(whole, "validation", count, NUM_TOKENS):
            before, text = (tokenizer.decode(part) for part in (window[:1], window[1:]))
            # A window may begin or end inside of a character.
            if encode(tokenizer, before) + encode(tokenizer, text) == window.tolist():
                texts.append((before, text))
                num_bytes.append(int(counter.count(window[None].numpy())[0]))
        return cls(tuple(texts), tuple(num_bytes))

    def num_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the tokens of all that is predicted."""
        return sum(len(encode(tokenizer, text)) for _, text in self.texts)

    def bits(self, model: Checkpoint, dtype: torch.dtype) -> Bits:
        """Return the bits that a model needs for every passage, with weights of a type."""
        loaded, tokenizer, bits = model.load_model(dtype), model.load_tokenizer(), []
        for before, text in self.texts:
            context, predicted = encode(tokenizer, before), encode(tokenizer, text)
            losses = token_losses(loaded, torch.tensor([context + predicted]))
            bits.append(float(losses[len(context) - 1 :].sum()) / math.log(2))
        return bits


@dataclass(frozen=True)
class Vocabularies:
    """Studies of one teacher with different vocabularies."""

    cache_dir: Path
    teacher: TeacherName
    tokens: int
    """To train on; none where 0."""
    parameters: int | None = None
    """Of the largest cut; without, of the hand-picked half of the whole teacher."""

    def open(self, size: int | None = None) -> Study:
        """Return the teacher with so many ids, and its text; with all of them without a size."""
        return open_quickstart(self.cache_dir, self.teacher, size)

    @cached_property
    def whole(self) -> Study:
        """The teacher with all of its ids."""
        return self.open()

    @cached_property
    def most(self) -> int:
        """The parameters that a cut may have."""
        return self.parameters or num_parameters(sized(self.whole.teacher.architecture, self.handpicked))

    @property
    def handpicked(self) -> Shape:
        """The cut of the whole teacher; the others have at least its sizes."""
        return CASES[self.teacher].handpicked

    def depths(self, own: Architecture) -> list[int]:
        """Return how many layers a cut may have."""
        depths = range(1, own.num_hidden_layers + 1)
        return [depth for depth in depths if self.fits(own, depth, self.handpicked[3])]

    def fits(self, own: Architecture, depth: int, neurons: int) -> bool:
        """Return whether so many layers of so many neurons are few enough."""
        return num_parameters(sized(own, (*self.handpicked[:3], neurons, depth))) <= self.most

    def select(self, study: Study) -> Selection:
        """Return a cut with as many parameters as it may have."""
        hidden, groups, head_dim, least, _ = self.handpicked
        own = study.teacher.architecture
        depth = max(self.depths(own))
        widths = range(least, own.layers[0].intermediate_size + 1)
        cut = study.select(
            hidden_size=hidden,
            num_hidden_layers=depth,
            num_key_value_heads=groups,
            head_dim=head_dim,
            intermediate_size=max(neurons for neurons in widths if self.fits(own, depth, neurons)),
        )
        ranks, order = study.ordered(SPACE).ranking, self.whole.ordered().ranking
        kept = zip(cut.layers, order, strict=False)
        return replace(cut, layers=tuple(replace(layer, layer=ranks.index(place)) for layer, place in kept))

    def measure(self, study: Study, passages: Passages) -> tuple[dict[str, Any], dict[str, Bits]]:
        """Return the facts of a vocabulary, and the bits of every passage by model."""
        teacher = study.teacher.architecture
        cut = study.teacher
        if num_parameters(teacher) > self.most:
            cut = study.extract(self.select(study), SPACE).checkpoint
        models = {"teacher": study.teacher} | ({} if cut is study.teacher else {"cut": cut})
        if self.tokens:
            models["trained"] = study.pretrain(cut, schedule=self.schedule).model
        bits = {name: passages.bits(model, EXTENTS[self.teacher].dtype) for name, model in models.items()}
        num_tokens = passages.num_tokens(study.teacher.load_tokenizer())
        facts = {
            "sizes": teacher.vocab_size,
            "tokens_per_byte": round(num_tokens / sum(passages.num_bytes), 4),
            "teacher_parameters": num_parameters(teacher),
            "cut_parameters": num_parameters(cut.architecture),
            "num_layers": cut.architecture.num_hidden_layers,
            "intermediate_size": cut.architecture.layers[0].intermediate_size,
        }
        return facts, {"cut": bits["teacher"]} | bits

    @property
    def schedule(self) -> Schedule:
        """How cuts are trained."""
        batch = EXTENTS[self.teacher].batch
        return Schedule(
            tokens=self.tokens,
            sequence_length=LENGTH,
            global_batch=batch,
            micro_batch=batch,
            warmup_steps=max(1, self.tokens // (batch * LENGTH) // 4),
            num_evaluations=1,
            checkpoint_steps=50,
        )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text, in which special tokens stand for themselves."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@torch.no_grad()
def token_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return [T] the loss of every token of [1, T + 1] but the first, nats."""
    logits = logits_of(model, final_states(model, ids)[0]).float()
    return cross_entropy(logits, ids[0, 1:], reduction="none")


def compare(bits: Bits, base: Bits, sizes: Sequence[int]) -> dict[str, list[float]]:
    """Return bits per byte, and how many more they are than those of the first vocabulary, with errors."""
    more = [own - other for own, other in zip(bits, base, strict=True)]
    return {
        "bits": [round(part, 4) for part in ratio_and_error(bits, sizes)],
        "change": [round(part, 4) for part in ratio_and_error(more, sizes)],
    }


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", choices=TEACHERS, default="smollm2_135m")
    parser.add_argument("--sizes", type=int, nargs="*", help="of the vocabularies beside the whole one")
    parser.add_argument("--parameters", type=int, help="of the largest cut; the default is the hand-picked half")
    parser.add_argument("--tokens", type=int, help="of the training of each cut; 0: none")
    parser.add_argument("--passages", type=int, help="on which models are measured")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("sizes", "tokens", "passages")}
    extent = replace(EXTENTS[arguments.teacher], **{name: own for name, own in given.items() if own is not None})
    vocabularies = Vocabularies(arguments.cache_dir, arguments.teacher, extent.tokens, arguments.parameters)
    passages, base = Passages.of(vocabularies.whole, extent.passages), {}
    figures: dict[str, list[Any]] = {}
    for size in (None, *extent.sizes):
        study = vocabularies.whole if size is None else vocabularies.open(size)
        if not vocabularies.depths(study.teacher.architecture):
            sys.stderr.write(f"{study.teacher.architecture.vocab_size} tokens leave no room for layers\n")
            continue
        facts, found = vocabularies.measure(study, passages)
        base = base or found
        for model, bits in found.items():
            compared = compare(bits, base[model], passages.num_bytes)
            facts |= {f"{model}_{name}": value for name, value in compared.items()}
        sys.stderr.write(json.dumps(facts) + "\n")
        for name, value in facts.items():
            figures.setdefault(name, []).append(value)
    described = {"teacher": arguments.teacher, "tokens": extent.tokens, "parameters": vocabularies.most}
    sys.stdout.write(json.dumps(described | figures) + "\n")


if __name__ == "__main__":
    main()
