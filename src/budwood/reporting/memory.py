"""Estimates of the memory that a model takes on a device, in bytes.

Training, with N parameters: weights 4N (float32 masters), gradients 4N, AdamW's two moments 8N; in bfloat16 also the
copies that autocast multiplies, 2N. Per token of a micro-batch, activations kept for the backward pass (see
`activation_bytes_per_token`). At the head, the gradient of its V x E weights, twice, and one chunk of logits. Devices
that train in parallel each have all of this: nothing is sharded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from budwood.arch.count import kv_cache_bytes_per_token, num_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture, LayerSpec
from budwood.training.losses import CHUNK_TOKENS

DtypeName = Literal["float32", "bfloat16"]

BYTES: dict[DtypeName, int] = {"float32": 4, "bfloat16": 2}
FLOAT32 = BYTES["float32"]
_CHUNK_COPIES = 4
"""Blocks of float32 logits that live at once while a chunk's loss and gradient are made; a teacher doubles them."""

# Shape legend: E hidden size, V vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device, by what uses them."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    head: int = 0
    """Gradients of the output weights and a chunk of logits; where nothing is trained, the logits of a sequence."""
    teacher: int = 0
    """Weights, and what is alive while it runs."""
    moments: int = 0
    """Second moments of a layer's inputs, and what it takes to correct a cut by the largest of them."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, part) for part in self.__slots__)


def training_memory(
    student: Architecture, *, num_tokens: int, length: int, precision: DtypeName, teacher: Architecture | None = None
) -> Memory:
    """Return what a training step takes; see the module for the formula.

    Args:
        student: what is trained.
        num_tokens: of one micro-batch.
        length: tokens of a sequence.
        precision: of matrix products.
        teacher: runs beside the student.
    """
    count, table = num_parameters(student), student.vocab_size * student.hidden_size
    copies = BYTES[precision] if precision != "float32" else 0
    chunk = min(CHUNK_TOKENS, num_tokens) * student.vocab_size * FLOAT32 * _CHUNK_COPIES
    return Memory(
        weights=(FLOAT32 + copies) * count,
        gradients=FLOAT32 * count,
        optimizer=2 * FLOAT32 * count,
        activations=num_tokens * activation_bytes_per_token(student, precision, context=length),
        head=2 * FLOAT32 * table + chunk * (2 if teacher else 1),
        teacher=_resident(teacher, num_tokens, length, precision) if teacher else 0,
    )


def forward_memory(
    model: Architecture, *, num_sequences: int, length: int, precision: DtypeName, teacher: Architecture | None = None
) -> Memory:
    """Return what measuring losses takes.

    Args:
        model: what is measured.
        num_sequences: of one forward pass.
        length: tokens of a sequence.
        precision: of weights and matrix products.
        teacher: stays on the device beside the candidates that are cut out of it.
    """
    size = BYTES[precision]
    return Memory(
        weights=size * num_parameters(model),
        activations=num_sequences * length * working_bytes_per_token(model, size, context=length),
        head=logits_bytes(model, length, size),
        teacher=size * num_parameters(teacher) if teacher else 0,
    )


def timing_memory(
    models: Sequence[Architecture], *, num_sequences: int, length: int, new_tokens: int, precision: DtypeName
) -> Memory:
    """Return what timing models in turns takes: the weights of all, and what the largest of them takes to write.

    Args:
        models: what is timed; all but the first are reported as teachers.
        num_sequences: that are read together.
        length: tokens of a prompt.
        new_tokens: that are written behind each.
        precision: of weights and matrix products.
    """
    size, (first, *others) = BYTES[precision], models
    cached = max(kv_cache_bytes_per_token(model, bytes_per_value=size) for model in models) * (length + new_tokens)
    working = max(length * working_bytes_per_token(model, size, context=length) for model in models)
    return Memory(
        weights=size * num_parameters(first),
        activations=num_sequences * (cached + working),
        head=max(logits_bytes(model, num_sequences, size) for model in models),
        teacher=size * sum(map(num_parameters, others)),
    )


def activation_bytes_per_token(architecture: Architecture, precision: DtypeName, *, context: int) -> int:
    """Return what the transformers models keep of a token for the backward pass, without recomputing anything.

    With b bytes of a product: per layer, an RMS norm keeps its input and its normalised input in float32, a layer norm
    its input; every matrix keeps its input (in float32 those that read one norm share it, autocast gives each a copy of
    its own); attention with fused kernels b for every dimension of rotated queries and keys, values and outputs, and 4
    for every head; norms over heads 8 for what they normalise; a fused projection stays whole beside its parts; a gated
    MLP 4b for every neuron, a plain one 2b. Attention that forms its scores (Gemma 2) keeps keys and values of every
    query head, and 8 for every head and token of a sequence: capped scores, their softmax in float32, and in bfloat16
    a copy of it.

    Args:
        architecture: what is trained.
        precision: of matrix products.
        context: tokens of a sequence.
    """
    layers = sum(_layer_bytes(architecture, layer, precision, context) for layer in architecture.layers)
    return layers + _norm_bytes(architecture, 1) + FLOAT32 * architecture.hidden_size


def logits_bytes(architecture: Architecture, length: int, size: int) -> int:
    """Return what the logits of a sequence take, in float32 and as the head gives them."""
    return length * architecture.vocab_size * (FLOAT32 + (size if size < FLOAT32 else 0))


def working_bytes_per_token(architecture: Architecture, size: int, *, context: int) -> int:
    """Return what is alive in the widest layer of a model that is not trained.

    While queries turn: the stream, what a norm made of it, queries four times, keys and values; in the MLP: the stream,
    what a norm and attention made of it, and for every neuron what each matrix gave and their product. Where scores are
    formed, also those of a sequence twice in float32, and in half precision as they came, and two masks.

    Args:
        architecture: what is run.
        size: bytes of a number.
        context: tokens of a sequence.
    """
    family, width = family_of(architecture.family), architecture.hidden_size
    score = 2 * FLOAT32 + (size if size < FLOAT32 else 0) if family.forms_scores else 0
    mask = 2 * size if family.forms_scores else 0
    return max(
        max(
            size * (2 * width + (4 * layer.num_attention_heads + 2 * layer.num_key_value_heads) * layer.head_dim)
            + (score * layer.num_attention_heads + mask) * context,
            size * (3 * width + (len(family.mlp_in) + 1) * layer.intermediate_size),
        )
        for layer in architecture.layers
    )


def _layer_bytes(architecture: Architecture, layer: LayerSpec, precision: DtypeName, context: int) -> int:
    family, size = family_of(architecture.family), BYTES[precision]
    queries, keys = layer.num_attention_heads * layer.head_dim, layer.num_key_value_heads * layer.head_dim
    projections = 3 if family.query.inside is None else 1
    readers = 2 if precision == "float32" else projections + len(family.mlp_in)
    if family.forms_scores:
        attention = 4 * size * queries + 2 * FLOAT32 * layer.num_attention_heads * context
    else:
        attention = 2 * size * (queries + keys) + FLOAT32 * layer.num_attention_heads
    attention += 2 * FLOAT32 * (queries + keys) if family.head_norms else 0
    attention += size * (queries + 2 * keys) if family.query.inside else 0
    neurons = 2 * len(family.mlp_in) * size * layer.intermediate_size
    return (
        _norm_bytes(architecture, len(family.norms)) + readers * size * architecture.hidden_size + attention + neurons
    )


def _norm_bytes(architecture: Architecture, number: int) -> int:
    # Layer norms of the families here have a bias.
    family = family_of(architecture.family)
    kept = (1 if family.parallel else number) if family.final_norm.bias else 2 * number
    return FLOAT32 * architecture.hidden_size * kept


def _resident(teacher: Architecture, num_tokens: int, length: int, precision: DtypeName) -> int:
    size = BYTES[precision]
    return size * num_parameters(teacher) + num_tokens * working_bytes_per_token(teacher, size, context=length)
