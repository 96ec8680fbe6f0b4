"""What ranking, trials and corrections cost in closed form, by kinds of work, and the sizes of regressed inputs."""

from collections.abc import Iterator, Sequence

from budwood.arch.count import layer_flops_per_token, layer_parameters, num_parameters, pass_flops
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.records.cost import Cost
from budwood.records.workload import Workload
from budwood.subnet.settings import Compensation

NUM_TIMED = 3
"""Forward passes over one sequence by which the latency of a candidate is measured."""
_DOUBLE = 2
"""Times that a float64 product takes as long as one in float32."""


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


def trial_flops_per_token(teacher: Architecture, ran: Sequence[int], *, context: int, capped: bool) -> int:
    """Return the FLOPs of a trial per token: some of the teacher's layers, and the error of its logits."""
    layers = layer_flops_per_token(teacher, *(teacher.layers[layer] for layer in ran), context=context)
    return layers + logit_error_flops(teacher, capped=capped)


def logit_error_flops(teacher: Architecture, *, capped: bool) -> int:
    """Return the FLOPs of the error of logits, per token: a quadratic form, or of capped logits the head, twice."""
    width = teacher.hidden_size
    return 4 * teacher.vocab_size * width if capped else 2 * width**2


def logit_metric_flops(teacher: Architecture, *, capped: bool) -> int:
    """Return the FLOPs of the second moment of a head's rows, which all trials share; capped logits need none."""
    return 0 if capped else 2 * teacher.vocab_size * teacher.hidden_size**2


def latency_flops(model: Architecture, *, length: int) -> int:
    """Return the FLOPs of measuring a latency: in every pass all tokens of a sequence, and one row of the head."""
    return NUM_TIMED * pass_flops(model, length, context=length, num_logits=1)


def pass_work(model: Architecture, *, num_tokens: int, context: int) -> Workload:
    """Return the work of the layers of a model that read text.

    Beside products, a token takes in every layer about 4 numbers of a channel, one of a neuron, and 3 of every score:
    it is made, exponentiated and read.
    """
    flops = layer_flops_per_token(model, *model.layers, context=context)
    beside = sum(
        4 * model.hidden_size + layer.intermediate_size + 3 * layer.num_attention_heads * context
        for layer in model.layers
    )
    return Workload(passes=float(num_tokens * flops), entries=num_tokens * beside)


def calibration_work(model: Architecture, *, num_tokens: int, context: int) -> Workload:
    """Return the work of scoring the components of a model, whose layers are read one by one.

    Statistics convert and square most numbers of a token, 19 of a channel and 4 of a neuron.
    """
    scored = sum(19 * model.hidden_size + 4 * layer.intermediate_size for layer in model.layers)
    passed = pass_work(model, num_tokens=num_tokens, context=context)
    return passed + Workload(entries=num_tokens * scored, moved=num_parameters(model))


def elimination_work(model: Architecture, cost: Cost, *, context: int) -> Workload:
    """Return the work of leaving layers out: for each of them all weights are read once more.

    Args:
        model: all layers.
        cost: of the elimination.
        context: tokens of a sequence.
    """
    whole, width = pass_work(model, num_tokens=1, context=context), model.hidden_size
    capped = family_of(model.family).caps_logits
    products = cost.tokens * logit_error_flops(model, capped=capped) + logit_metric_flops(model, capped=capped)
    passes = cost.flops - products
    return Workload(
        passes=passes,
        products=products,
        entries=passes / whole.passes * whole.entries + 2 * width * cost.tokens,
        moved=model.num_hidden_layers * num_parameters(model),
    )


def maps_layers(teacher: Architecture, settings: Compensation) -> bool:
    """Return whether runs of dropped layers become a linear map."""
    return settings.layers and not family_of(teacher.family).output_norms


def refits(teacher: Architecture, child: Architecture, settings: Compensation) -> bool:
    """Return whether a child is fitted to its teacher's stream."""
    return settings.refit and not family_of(teacher.family).output_norms and child != teacher


def moment_work(
    teacher: Architecture, child: Architecture | None, settings: Compensation, *, num_tokens: int, num_gaps: int
) -> Workload:
    """Return the work of the moments behind corrections, beside the teacher's pass over the text.

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
    products = sum(2.0 * n**2 * num_tokens for n in inputs) + gaps * 4.0 * width**2 * num_tokens
    solved = Workload.solving(width**3 / 3 + 2 * width**3, width)
    return Workload(products=products, entries=sum(inputs) * num_tokens) + solved.times(gaps)


def moment_bytes(teacher: Architecture, settings: Compensation, *, num_gaps: int) -> int:
    """Return what the moments of all inputs of a teacher, and the maps over gaps, take in float32."""
    inputs = sum(n**2 for _, n, _ in _input_sizes(teacher, teacher, settings))
    return 4 * (inputs + (num_gaps if maps_layers(teacher, settings) else 0) * teacher.hidden_size**2)


def solve_work(teacher: Architecture, child: Architecture, settings: Compensation, *, num_gaps: int) -> Workload:
    """Return the work in which a child is corrected once moments are known.

    An input of n entries of which k are kept takes k^3/3 + 2k^2(n - k) to solve (Cholesky), and 2k(n - k) for every
    row that reads it; a gap of dropped layers 2ED for every row that the layer before it writes.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        num_gaps: runs of dropped layers that follow a kept one.
    """
    cut = [sizes for sizes in _input_sizes(teacher, child, settings) if sizes[0] < sizes[1]]
    solves = (Workload.solving(k**3 / 3 + 2 * k**2 * (n - k), k) for k, n, _ in cut)
    folds = sum(2.0 * k * (n - k) * rows for k, n, rows in cut)
    gaps = num_gaps if maps_layers(teacher, settings) else 0
    neurons = max(layer.intermediate_size for layer in teacher.layers)
    return sum(solves, Workload(products=folds + gaps * 2 * child.hidden_size * teacher.hidden_size * neurons))


def refit_work(child: Architecture, *, num_tokens: int, context: int) -> Workload:
    """Return the work of fitting a child, beside the teacher's pass over the text.

    The child's layers run once, and their MLPs once more. A fit of E' targets to n entries takes 2n^2 + 2nE' for every
    token, and n^3/3 + 2n^2E' to solve (Cholesky); to fold it into m rows that read it takes 2n^2m. Of a token every
    entry is taken out, converted and weighted, and so is every target once it was made.

    Args:
        child: the child.
        num_tokens: of calibration text.
        context: tokens of a sequence.
    """
    width, num_mlp_in = child.hidden_size, len(family_of(child.family).mlp_in)
    work = pass_work(child, num_tokens=num_tokens, context=context)
    for spec in child.layers:
        heads, neurons = spec.num_attention_heads * spec.head_dim, spec.intermediate_size
        rows = heads + 2 * spec.num_key_value_heads * spec.head_dim + num_mlp_in * neurons
        passes = 2.0 * num_tokens * (num_mlp_in + 1) * width * neurons
        work += Workload(passes=passes, products=2 * width**2 * rows)
        for n in (width, heads, width, neurons):
            each = Workload(products=2 * n**2 + 2 * n * width, entries=3 * n + 4 * width)
            work += each.times(num_tokens) + Workload.solving(n**3 / 3 + 2 * n**2 * width, n)
    return work


def layout_work(teacher: Architecture, child: Architecture, settings: Compensation, *, num_passes: int) -> Workload:
    """Return the work of reading a teacher's weights and laying out a child's.

    A weight of a layer is permuted along two axes, for every pass over text and for the child; one of an embedding is
    checked and permuted along one. One that is corrected is gathered and converted. Of a moment all entries are made
    and divided, and about half of them gathered. The child is copied, written and read again, and read and converted
    for each run of its proof. To turn the values of a layer into their singular basis takes 8E^2S in float64, and its
    weights are converted, laid out and multiplied, to and fro.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        num_passes: times that the teacher reads text.
    """
    width = teacher.hidden_size
    layers = (*teacher.layers * num_passes, *teacher.layers[: child.num_hidden_layers])
    num_tables = num_passes + (1 if teacher.tie_word_embeddings else 2)
    read = num_tables * teacher.vocab_size * width
    read += sum(layer_parameters(teacher.family, width, layer) for layer in layers)
    inputs = [(n, rows) for k, n, rows in _input_sizes(teacher, child, settings) if k < n]
    moved = 2 * read + 2 * sum(n * rows for n, rows in inputs) + 2.5 * sum(n**2 for n, _ in inputs)
    turned = sum(8.0 * width**2 * layer.head_dim for layer in layers)
    values = sum((layer.num_attention_heads + layer.num_key_value_heads) * layer.head_dim * width for layer in layers)
    return Workload(products=_DOUBLE * turned, moved=moved + 6 * values + 6 * num_parameters(child))


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
