"""Estimates of the memory that a teacher takes which is read, or cut, layer by layer: the largest of its phases.

What is read of a file is there twice, as it lies in the file and in its order. Of the text a stream of hidden states is
there before and behind a layer. A shard of a child waits until it is full.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from budwood.arch.count import layer_parameters, num_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.models.certificate import probe_lengths
from budwood.models.export import WEIGHT_SHARD_BYTES
from budwood.models.probe import NUM_TOKENS
from budwood.reporting.memory import FLOAT32, Memory, working_bytes_per_token
from budwood.subnet.elimination import HEAD_ROWS
from budwood.subnet.extract import ROWS_TOGETHER
from budwood.subnet.flops import layer_input_sizes, maps_layers, refits
from budwood.subnet.regression import SMALL_RIDGE
from budwood.subnet.settings import NO_CORRECTION, Compensation

_FLOAT64 = 8

# Shape legend: E hidden size, k of n entries of an input are kept, m = n - k are predicted.


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReading:
    """The text that a teacher reads layer by layer."""

    num_sequences: int
    length: int
    """Tokens of a sequence."""
    batch_size: int
    """Sequences of one forward pass."""
    size: int
    """Bytes of a parameter, and of an entry of a hidden state."""

    def states(self, width: int) -> int:
        """Return the bytes of hidden states of all text."""
        return self.size * self.num_sequences * self.length * width

    @property
    def batch_tokens(self) -> int:
        """Tokens of one forward pass."""
        return self.batch_size * self.length


def stream_memory(teacher: Architecture, reading: TextReading, *, num_trials: int = 0) -> Memory:
    """Return what it takes a teacher to read text layer by layer, for scores of its components or for trials.

    Args:
        teacher: what reads.
        reading: the text.
        num_trials: streams of the same text, each without other layers, that end in errors; without them there is one,
            of which statistics are taken.
    """
    table, width = reading.size * _table(teacher), teacher.hidden_size
    states = reading.states(width)
    if not num_trials:
        return _largest([Memory(weights=2 * table), *_scoring(teacher, reading)])
    rows = FLOAT32 * width * min(HEAD_ROWS, teacher.vocab_size)
    capped = family_of(teacher.family).caps_logits
    logits = 4 * FLOAT32 * reading.batch_tokens * min(HEAD_ROWS, teacher.vocab_size)
    errors = Memory(weights=table, head=rows + 2 * FLOAT32 * width**2)
    if capped:
        errors = Memory(weights=table, activations=states * (num_trials + 1), head=rows + logits)
    return _largest(
        [
            Memory(weights=2 * table),
            errors,
            _layer_reading(teacher, reading, states * (num_trials + 1)),
        ]
    )


def _scoring(teacher: Architecture, reading: TextReading) -> Iterator[Memory]:
    """Yield what is there while a layer is scored: in float32 what its MLP reads, twice, and then its last matrix."""
    width, states = teacher.hidden_size, 2 * reading.states(teacher.hidden_size)
    weights, copies = _layer_bytes(teacher, reading.size), 2 if reading.size < FLOAT32 else 1
    yield _layer_reading(teacher, reading, states)
    for layer in teacher.layers:
        neurons, heads = layer.intermediate_size, layer.num_attention_heads * layer.head_dim
        token = reading.size * (3 * width + neurons) + FLOAT32 * copies * neurons
        yield Memory(weights=weights, activations=states + reading.batch_tokens * token)
        matrices = FLOAT32 * width * (copies * neurons + (copies - 1) * heads)
        yield Memory(weights=weights, activations=states, moments=matrices)


def intake_memory(teacher: Architecture, size: int) -> Memory:
    """Return what it takes to compare three readings of a teacher, each layer by layer in float32.

    Transformers' own maps the embedding and the head beside the one in float32. Ours reads whole layers.

    Args:
        teacher: what is read.
        size: bytes of a parameter in its files.
    """
    table, tied = _table(teacher), teacher.tie_word_embeddings
    logits = FLOAT32 * NUM_TOKENS * teacher.vocab_size
    own = (size + FLOAT32) * _layer_bytes(teacher, 1) + (FLOAT32 * table if tied else 0)
    return _largest(
        [
            Memory(weights=_mapped(teacher, size) + FLOAT32 * table, head=logits),
            Memory(weights=own, head=logits),
            Memory(weights=FLOAT32 * table + (0 if tied else size * table), head=2 * logits),
        ]
    )


def certificate_memory(model: Architecture, size: int, lengths: Sequence[int], *, whole: bool) -> Memory:
    """Return what it takes to record the prompts of an export, layer by layer in float32.

    Args:
        model: what is exported.
        size: bytes of a parameter in its files.
        lengths: tokens of the prompts, which run as one padded batch.
        whole: whether its files are mapped whole, too: to answer a question, or to prove what was trained.
    """
    mapped, tokens = _mapped(model, size), len(lengths) * max(lengths)
    logits, head = FLOAT32 * tokens * model.vocab_size, FLOAT32 * _table(model)
    matrix = (size + FLOAT32) * model.hidden_size * max(layer.intermediate_size for layer in model.layers)
    mask = tokens * max(lengths)
    working = tokens * working_bytes_per_token(model, FLOAT32, context=max(lengths))
    return _largest(
        [
            Memory(weights=size * num_parameters(model) if whole else 0),
            Memory(weights=mapped + head, head=logits),
            Memory(weights=mapped, head=logits + logits // len(lengths)),
            Memory(weights=mapped + matrix, activations=working + mask),
        ]
    )


def cut_memory(
    teacher: Architecture, child: Architecture, settings: Compensation | None, reading: TextReading
) -> Memory:
    """Return what it takes to cut a child out of a teacher, to correct, write and prove it, layer by layer.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        reading: the calibration text.
    """
    return _largest(_cut_phases(_Plan(teacher, child, settings or NO_CORRECTION, reading)))


@dataclass(frozen=True, slots=True)
class _Plan:
    teacher: Architecture
    child: Architecture
    settings: Compensation
    reading: TextReading

    @property
    def states(self) -> int:
        """Bytes of the teacher's stream, of all text."""
        return self.reading.states(self.teacher.hidden_size) if self.settings.regresses else 0

    @property
    def gap(self) -> bool:
        """Whether a layer may begin a run of dropped ones that becomes a map."""
        dropped = self.child.num_hidden_layers < self.teacher.num_hidden_layers
        return dropped and maps_layers(self.teacher, self.settings)


def solving_bytes(settings: Compensation) -> int:
    """Return the bytes of a number in which regressions are solved."""
    ridges = (settings.neuron_ridge, settings.channel_ridge, settings.head_ridge)
    return _FLOAT64 if min(ridges) < SMALL_RIDGE else FLOAT32


def _cut_phases(plan: _Plan) -> Iterator[Memory]:
    teacher, child, size = plan.teacher, plan.child, plan.reading.size
    table, own = size * _table(teacher), size * _table(child)
    proven = FLOAT32 * _table(child)
    lengths = probe_lengths(plan.reading.length)
    logits = FLOAT32 * child.vocab_size * sum(lengths)
    working = max(lengths) * working_bytes_per_token(child, FLOAT32, context=max(lengths))
    tied = proven if teacher.tie_word_embeddings else 0
    yield Memory(weights=2 * table)
    yield Memory(weights=table + own, activations=plan.states)
    waiting, longest = own, own
    yield Memory(weights=waiting + proven, activations=plan.states)
    for place, layer in enumerate(child.layers):
        for memory in (*_correcting(plan, place), *_refitting(plan, place)):
            yield replace(memory, weights=memory.weights + waiting + tied)
        parameters = layer_parameters(child.family, child.hidden_size, layer)
        waiting += size * parameters
        longest = max(longest, waiting)
        yield Memory(weights=waiting + tied + FLOAT32 * parameters, activations=plan.states + working)
        yield Memory(weights=longest + tied + FLOAT32 * parameters, activations=working, head=logits)
        waiting = waiting if waiting < WEIGHT_SHARD_BYTES else 0
    if not teacher.tie_word_embeddings:
        k, n = child.hidden_size, teacher.hidden_size
        mix = FLOAT32 * k * (n - k) if plan.settings.channels else 0
        rows = FLOAT32 * min(ROWS_TOGETHER, child.vocab_size) * (n + k) if mix else 0
        yield Memory(weights=waiting + 2 * table, activations=plan.states, moments=mix)
        yield Memory(weights=waiting + table + own, activations=plan.states, moments=mix + rows)
        waiting += own
        longest = max(longest, waiting)
    yield Memory(weights=waiting + proven, head=logits)
    # The child is read again, from a mapped file.
    yield Memory(weights=longest + proven, head=logits)
    yield Memory(weights=proven, head=2 * logits)


def _correcting(plan: _Plan, place: int) -> Iterator[Memory]:
    """Yield what it takes to make a layer of the child, beside what waits to be written."""
    reading, settings, size = plan.reading, plan.settings, plan.reading.size
    width, begun = plan.teacher.hidden_size, 2 * plan.states if plan.gap else 0
    inputs = [(k, n) for k, n, _ in layer_input_sizes(plan.teacher, plan.child, settings, place) if k < n]
    made = size * layer_parameters(plan.child.family, plan.child.hidden_size, plan.child.layers[place])
    matrix = size * width * plan.teacher.layers[place].intermediate_size
    left = sum(FLOAT32 * n**2 for _, n in inputs)
    if inputs or plan.gap:
        states = 2 * plan.states + begun // 2
        yield _layer_reading(plan.teacher, reading, states, moments=left)
        n = max((n for _, n in inputs), default=0)
        entries = reading.batch_tokens * (size * (3 * width + n) + FLOAT32 * n)
        yield Memory(weights=_layer_bytes(plan.teacher, size), activations=states + entries, moments=left)
    for k, n in inputs:
        m, exact = n - k, solving_bytes(settings)
        shares = FLOAT32 * k * m
        taken = left + FLOAT32 * k**2 + shares
        left -= FLOAT32 * n**2
        solved = left + 2 * exact * k * n + (shares if exact > FLOAT32 else 0)
        folded = FLOAT32 * min(ROWS_TOGETHER, width) * (n + k) + shares
        for weights, moments in ((made, taken), (made, solved), (made + 2 * matrix, shares), (made + matrix, folded)):
            yield Memory(weights=weights, activations=plan.states + begun, moments=moments)
    if plan.gap:
        yield _layer_reading(plan.teacher, reading, 4 * plan.states, weights=made)
        batch = 3 * FLOAT32 * reading.batch_tokens * width
        yield Memory(weights=made, activations=3 * plan.states + batch, moments=4 * FLOAT32 * width**2)
    yield Memory(weights=made + 2 * matrix, activations=plan.states + begun)


def _refitting(plan: _Plan, place: int) -> Iterator[Memory]:
    """Yield what it takes to fit a layer of the child: sums of its widest input, and what they solve."""
    teacher, child, reading = plan.teacher, plan.child, plan.reading
    if not refits(teacher, child, plan.settings):
        return
    layer, width = child.layers[place], child.hidden_size
    heads, n = layer.num_attention_heads * layer.head_dim, layer.intermediate_size
    inputs = layer_input_sizes(teacher, child, plan.settings, place)
    mix = max((FLOAT32 * k * (whole - k) for k, whole, _ in inputs), default=0)
    states = plan.states + reading.states(teacher.hidden_size + 7 * width + heads + n)
    own = 2 * reading.size * layer_parameters(child.family, width, layer)
    summed = FLOAT32 * (n**2 + n * width + reading.batch_tokens * (n + 3 * width))
    for moments in (summed, 2 * FLOAT32 * (n**2 + n * width)):
        yield Memory(weights=own, activations=states, moments=mix + moments)


def _layer_reading(
    teacher: Architecture, reading: TextReading, states: int, *, weights: int = 0, moments: int = 0
) -> Memory:
    """Return what is there while a layer of a teacher reads the text, beside some weights."""
    working = reading.batch_tokens * working_bytes_per_token(teacher, reading.size, context=reading.length)
    weights += _layer_bytes(teacher, reading.size)
    return Memory(weights=weights, activations=states + working, moments=moments)


def _layer_bytes(architecture: Architecture, size: int) -> int:
    """Return what the largest layer takes."""
    family, width = architecture.family, architecture.hidden_size
    return size * max(layer_parameters(family, width, layer) for layer in architecture.layers)


def _mapped(architecture: Architecture, size: int) -> int:
    """Return what the embedding and the head take in their files."""
    return size * _table(architecture) * (1 if architecture.tie_word_embeddings else 2)


def _table(architecture: Architecture) -> int:
    """Return the parameters of an embedding."""
    return architecture.vocab_size * architecture.hidden_size


def _largest(memories: Iterable[Memory]) -> Memory:
    return max(memories, key=lambda memory: memory.total)
