"""What corrections and trials cost, in closed form: FLOPs, and the sizes of the inputs that are regressed."""

from collections.abc import Iterator, Sequence

from budwood.arch.count import forward_flops_per_token, layer_flops_per_token
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.subnet.settings import Compensation


def ran_alone(trials: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Return for each of some trials that run together the layers that no trial before it has run for it.

    As long as trials keep the same layers, the first of them runs those for all.

    Args:
        trials: the layers that each keeps, ascending.
    """
    begun: set[tuple[int, ...]] = set()
    alone = []
    for kept in trials:
        beginnings = {layer: kept[: place + 1] for place, layer in enumerate(kept)}
        alone.append([layer for layer, beginning in beginnings.items() if beginning not in begun])
        begun.update(beginnings.values())
    return alone


def trial_flops_per_token(teacher: Architecture, ran: Sequence[int], *, context: int) -> int:
    """Return the FLOPs of a trial per token: some of the teacher's layers, and its head."""
    head = forward_flops_per_token(teacher, context=context) - layer_flops_per_token(
        teacher, *teacher.layers, context=context
    )
    return head + layer_flops_per_token(teacher, *(teacher.layers[layer] for layer in ran), context=context)


def maps_layers(teacher: Architecture, settings: Compensation) -> bool:
    """Return whether runs of dropped layers become a linear map."""
    return settings.layers and not family_of(teacher.family).output_norms


def refits(teacher: Architecture, child: Architecture, settings: Compensation) -> bool:
    """Return whether a child is fitted to its teacher's stream."""
    return settings.refit and not family_of(teacher.family).output_norms and child != teacher


def moment_flops(
    teacher: Architecture, child: Architecture | None, settings: Compensation, *, num_tokens: int, num_gaps: int
) -> float:
    """Return the FLOPs of the moments behind corrections, beside the teacher's pass over the text.

    An input of n entries takes 2n^2 for every token; a gap of dropped layers takes 4E^2 for every token, and
    E^3/3 + 2E^3 to solve (Cholesky).

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it; none where moments serve whatever is left.
        settings: which corrections are made.
        num_tokens: of calibration text.
        num_gaps: runs of dropped layers that follow a kept one.
    """
    width, sizes = teacher.hidden_size, _input_sizes(teacher, child or teacher, settings)
    inputs = [n for k, n, _ in sizes if k < n or child is None]
    gaps = num_gaps if maps_layers(teacher, settings) else 0
    solved = width**3 / 3 + 2 * width**3
    return sum(2.0 * n**2 * num_tokens for n in inputs) + gaps * (4 * width**2 * num_tokens + solved)


def solve_flops(teacher: Architecture, child: Architecture, settings: Compensation, *, num_gaps: int) -> float:
    """Return the FLOPs in which a child is corrected once moments are known.

    An input of n entries of which k are kept takes k^3/3 + 2k^2(n - k) to solve (Cholesky), and 2k(n - k) for every
    row that reads it; a gap of dropped layers 2ED for every row that the layer before it writes.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        num_gaps: runs of dropped layers that follow a kept one.
    """
    flops = 0.0
    for k, n, rows in _input_sizes(teacher, child, settings):
        flops += k**3 / 3 + 2 * k**2 * (n - k) + 2 * k * (n - k) * rows if k < n else 0
    gaps = num_gaps if maps_layers(teacher, settings) else 0
    neurons = max(layer.intermediate_size for layer in teacher.layers)
    return flops + gaps * 2 * child.hidden_size * teacher.hidden_size * neurons


def refit_flops(child: Architecture, *, num_tokens: int, context: int) -> float:
    """Return the FLOPs of fitting a child, beside the teacher's pass over the text.

    The child's layers run once, and their MLPs once more. A fit of E' targets to n entries takes 2n^2 + 2nE' for every
    token, and n^3/3 + 2n^2E' to solve (Cholesky); to fold it into m rows that read it takes 2n^2m.

    Args:
        child: the child.
        num_tokens: of calibration text.
        context: tokens of a sequence.
    """
    width, flops = child.hidden_size, float(num_tokens * layer_flops_per_token(child, *child.layers, context=context))
    num_mlp_in = len(family_of(child.family).mlp_in)
    for spec in child.layers:
        heads, neurons = spec.num_attention_heads * spec.head_dim, spec.intermediate_size
        rows = heads + 2 * spec.num_key_value_heads * spec.head_dim + num_mlp_in * neurons
        flops += 2.0 * num_tokens * (num_mlp_in + 1) * width * neurons + 2 * width**2 * rows
        for n in (width, heads, width, neurons):
            flops += (2 * n**2 + 2 * n * width) * num_tokens + n**3 / 3 + 2 * n**2 * width
    return flops


def _input_sizes(teacher: Architecture, child: Architecture, settings: Compensation) -> Iterator[tuple[int, int, int]]:
    """Yield, for every input, the kept entries, all entries, and the child's rows that read it."""
    width, kept = teacher.hidden_size, child.hidden_size
    for place in range(child.num_hidden_layers):
        yield from layer_input_sizes(teacher, child, settings, place)
    if settings.channels and not teacher.tie_word_embeddings:
        yield kept, width, teacher.vocab_size


def layer_input_sizes(
    teacher: Architecture, child: Architecture, settings: Compensation, place: int
) -> Iterator[tuple[int, int, int]]:
    """Yield, for every input of a layer, the kept entries, all entries, and the child's rows that read it."""
    width, kept = teacher.hidden_size, child.hidden_size
    spec, whole = child.layers[place], teacher.layers[place]
    heads = spec.num_attention_heads * spec.head_dim
    if settings.channels:
        yield kept, width, heads + 2 * spec.num_key_value_heads * spec.head_dim
        yield kept, width, len(family_of(teacher.family).mlp_in) * spec.intermediate_size
    if settings.heads:
        yield heads, whole.num_attention_heads * whole.head_dim, kept
    if settings.neurons:
        yield spec.intermediate_size, whole.intermediate_size, kept
