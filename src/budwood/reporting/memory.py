"""Estimates of the memory that a model takes on a device, in bytes.

Training, with N parameters: weights 4N (float32 masters), gradients 4N, AdamW's two moments 8N; in bfloat16 also the
copies that autocast multiplies, 2N. Per token of a micro-batch, activations kept for the backward pass (see
`activation_bytes_per_token`). At the head, the gradient of its V x E weights, twice, and one chunk of logits. Devices
that train in parallel each hold all of this: nothing is sharded.
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from budwood.arch.count import layer_parameters, num_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.export import SHARD_BYTES
from budwood.subnet.flops import layer_input_sizes
from budwood.subnet.regression import SMALL_RIDGE
from budwood.subnet.settings import NO_CORRECTION, Compensation
from budwood.training.losses import CHUNK_TOKENS

Precision = Literal["float32", "bfloat16"]

BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
_FLOAT32 = 4
_CHUNK_COPIES = 4
"""Blocks of float32 logits that live at once while a chunk's loss and gradient are made; a teacher doubles them."""

# Shape legend: E hidden size, V vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device, by what holds them."""

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
        return sum(asdict(self).values())


def training_memory(
    student: Architecture, *, num_tokens: int, precision: Precision, teacher: Architecture | None = None
) -> Memory:
    """Return what a training step takes; see the module for the formula.

    Args:
        student: what is trained.
        num_tokens: of one micro-batch.
        precision: of matrix products.
        teacher: runs beside the student.
    """
    count, table = num_parameters(student), student.vocab_size * student.hidden_size
    copies = BYTES[precision] if precision != "float32" else 0
    chunk = min(CHUNK_TOKENS, num_tokens) * student.vocab_size * _FLOAT32 * _CHUNK_COPIES
    return Memory(
        weights=(_FLOAT32 + copies) * count,
        gradients=_FLOAT32 * count,
        optimizer=2 * _FLOAT32 * count,
        activations=num_tokens * activation_bytes_per_token(student, precision),
        head=2 * _FLOAT32 * table + chunk * (2 if teacher else 1),
        teacher=_resident(teacher, num_tokens, precision) if teacher else 0,
    )


def forward_memory(
    model: Architecture, *, num_sequences: int, length: int, precision: Precision, teacher: Architecture | None = None
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
        activations=num_sequences * length * _working_bytes_per_token(model, size),
        head=length * model.vocab_size * (size + 2 * _FLOAT32),
        teacher=size * num_parameters(teacher) if teacher else 0,
    )


def stream_memory(
    teacher: Architecture, *, num_sequences: int, length: int, batch_size: int, size: int, num_streams: int = 1
) -> Memory:
    """Return what it takes a teacher to read text layer by layer.

    Args:
        teacher: what reads.
        num_sequences: of the text.
        length: tokens of a sequence.
        batch_size: sequences of one forward pass.
        size: bytes of a parameter.
        num_streams: of the same text, each without other layers; one more is made.
    """
    return Memory(
        weights=size * _streamed_parameters(teacher),
        activations=size * num_sequences * length * teacher.hidden_size * (num_streams + 1)
        + batch_size * length * _working_bytes_per_token(teacher, size),
    )


def cut_memory(
    teacher: Architecture, child: Architecture, settings: Compensation | None, num_tokens: int, stream: Memory
) -> Memory:
    """Return what it takes to cut a child out of a teacher, to correct, write and prove it, layer by layer.

    Of an input of n entries of which k are kept the moment takes 4n^2. The regression on the largest, with m = n - k
    targets: 4kn for what it is given, and b(3k^2 + 2km) in float32, or in float64 where its ridge is small. A gap of
    dropped layers keeps the stream before it and what was written into it; a refit runs the child beside its teacher
    and keeps what its neurons return. A shard of the child waits until it is full, and its embedding is there in
    float32 for the proof. Of narrow teachers the head takes more than any layer: it is read, put in order, cut and
    joined.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        num_tokens: of calibration text.
        stream: what the teacher takes to read it.
    """
    size, settings = stream.weights // _streamed_parameters(teacher), settings or NO_CORRECTION
    width = 8 if min(settings.neuron_ridge, settings.channel_ridge, settings.head_ridge) < SMALL_RIDGE else 4
    layers = [
        [(k, n) for k, n, _ in layer_input_sizes(teacher, child, settings, place) if k < n]
        for place in range(child.num_hidden_layers)
    ]
    moments = max(
        sum(4 * n**2 for _, n in sizes) + max((4 * k * n + width * (k**2 + 2 * k * n) for k, n in sizes), default=0)
        for sizes in layers
    )
    states = 2 * teacher.hidden_size if settings.layers else 0
    if settings.refit:
        states += 6 * teacher.hidden_size + max(layer.intermediate_size for layer in child.layers)
    shard = size * min(num_parameters(child), SHARD_BYTES // size + _largest_layer(child))
    reads = settings.regresses or settings.refit
    kept = shard + _FLOAT32 * child.vocab_size * child.hidden_size
    cutting = replace(
        stream,
        weights=stream.weights + kept,
        activations=stream.activations + size * num_tokens * states if reads else 0,
        moments=moments,
    )
    table = size * teacher.vocab_size * teacher.hidden_size
    head = 2 * size * teacher.vocab_size * (teacher.hidden_size + child.hidden_size)
    finishing = Memory(weights=table + kept, head=0 if teacher.tie_word_embeddings else head)
    return max(cutting, finishing, key=lambda memory: memory.total)


def activation_bytes_per_token(architecture: Architecture, precision: Precision) -> int:
    """Return what the transformers models keep of a token for the backward pass, without recomputing anything.

    With b bytes of a product: per layer, an RMS norm keeps its input and its normalised input in float32, a layer norm
    its input; every matrix keeps its input (in float32 those that read one norm share it, autocast gives each a copy of
    its own); attention with fused kernels b for every dimension of rotated queries and keys, values and outputs, and 4
    for every head; norms over heads 8 for what they normalise; a fused projection stays whole beside its parts; a gated
    MLP 4b for every neuron, a plain one 2b. Attention that forms its whole matrix (Gemma 2) keeps more.

    Args:
        architecture: what is trained.
        precision: of matrix products.
    """
    layers = sum(_layer_bytes(architecture, layer, precision) for layer in architecture.layers)
    return layers + _norm_bytes(architecture, 1) + _FLOAT32 * architecture.hidden_size


def _layer_bytes(architecture: Architecture, layer: LayerSpec, precision: Precision) -> int:
    family, size = family_of(architecture.family), BYTES[precision]
    queries, keys = layer.num_attention_heads * layer.head_dim, layer.num_key_value_heads * layer.head_dim
    projections = 3 if family.query.inside is None else 1
    readers = 2 if precision == "float32" else projections + len(family.mlp_in)
    attention = 2 * size * (queries + keys) + _FLOAT32 * layer.num_attention_heads
    attention += 2 * _FLOAT32 * (queries + keys) if family.head_norms else 0
    attention += size * (queries + 2 * keys) if family.query.inside else 0
    neurons = 2 * len(family.mlp_in) * size * layer.intermediate_size
    return (
        _norm_bytes(architecture, len(family.norms)) + readers * size * architecture.hidden_size + attention + neurons
    )


def _norm_bytes(architecture: Architecture, number: int) -> int:
    # Layer norms of the families here have a bias.
    family = family_of(architecture.family)
    kept = (1 if family.parallel else number) if family.final_norm.bias else 2 * number
    return _FLOAT32 * architecture.hidden_size * kept


def _largest_layer(architecture: Architecture) -> int:
    """Return the parameters of the largest layer."""
    family, width = architecture.family, architecture.hidden_size
    return max(layer_parameters(family, width, layer) for layer in architecture.layers)


def _streamed_parameters(teacher: Architecture) -> int:
    """Return the parameters that are there while a teacher reads text layer by layer."""
    return _largest_layer(teacher) + teacher.vocab_size * teacher.hidden_size


def _resident(teacher: Architecture, num_tokens: int, precision: Precision) -> int:
    size = BYTES[precision]
    return size * num_parameters(teacher) + num_tokens * _working_bytes_per_token(teacher, size)


def _working_bytes_per_token(architecture: Architecture, size: int) -> int:
    """Return what is alive in the widest layer of a model that is not trained."""
    gated = 2 * len(family_of(architecture.family).mlp_in)
    widest = max(
        2 * (layer.num_attention_heads + layer.num_key_value_heads) * layer.head_dim + gated * layer.intermediate_size
        for layer in architecture.layers
    )
    return size * (4 * architecture.hidden_size + widest)
