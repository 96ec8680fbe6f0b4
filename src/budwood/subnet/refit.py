"""Let every layer of a child make up for what its stream lacks by then: a fit on the child's own activations.

Other corrections predict what was removed from what the whole teacher computes. In a child, errors of the first layers
reach the later ones. Here the child reads calibration text layer by layer beside its teacher. Attention and then the
MLP are fitted by ridge regression, twice each: what they read, to what they would read if the child's stream were the
teacher's; and what they write, to what takes the child's stream to the teacher's at the same place: behind the layer,
or where layers are dropped, behind these.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from budwood.arch.family import Family, Module, family_of, layer_lengths
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty
from budwood.models.stream import LayerStream, States, fill, headless, hollow, inputs_of
from budwood.models.tensors import State, fuse, part_of
from budwood.subnet.extract import Cut, child_config
from budwood.subnet.moments import Passage, StreamedMoments, residual_scale
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.regression import regress_tokens, token_weights


def fitted_layers(
    made: Iterator[State],
    teacher: OrderedTeacher,
    cut: Cut,
    whole: StreamedMoments,
    batches: Sequence[Tensor],
    ridge: float,
) -> Iterator[State]:
    """Yield the embedding of a child, and its layers fitted to the stream of its teacher.

    Args:
        made: parts of the child: the embedding, its layers in depth order, and the rest, which is not asked for.
        teacher: the ordered teacher.
        cut: what the child keeps of it.
        whole: gives the passages of the cut.
        batches: [N, T] token ids each, of the text that it reads.
        ridge: of the regressions, relative to the unit variance of features.
    """
    family, depth, scale = teacher.family, teacher.architecture.num_hidden_layers, residual_scale(teacher)
    parallel = family.parallel is not None and bool(teacher.config[family.parallel])
    # What is handed over is not kept.
    parts = [next(made)]
    model = headless(hollow(build_empty(child_config(teacher, cut)), family.decoder, teacher.device, teacher.dtype))
    fill(model, {name: weight.to(teacher.dtype) for name, weight in parts[0].items()})

    def read(_: int) -> State:
        return fuse({name: weight.to(teacher.dtype) for name, weight in parts[0].items()}, cut.architecture)

    own = LayerStream(model, family.decoder, batches, read)
    yield parts.pop()
    kept = cut.kept_layers
    bar = tqdm(zip(kept, [*kept[1:], depth], strict=True), total=len(kept), desc="refit", unit="layer")
    for position, (layer, following) in enumerate(bar):
        parts.append(next(made))
        wanted = whole.passage(layer, following)
        returned = _fit_layer(family, own, wanted, ridge, scale, parallel=parallel)
        parts[0] |= _weights_of(own.next_layer(), parts[0], cut.architecture, position)
        del wanted
        own.pass_on(returned)
        yield parts.pop()


def _weights_of(layer: nn.Module, part: State, architecture: Architecture, position: int) -> State:
    """Return what was fitted in a layer of a child, in the precision of its part."""
    family, lengths = family_of(architecture.family), layer_lengths(architecture.layers[position])
    fitted = State()
    for module in (*family.readers, family.output, family.mlp_out):
        weight, name = _linear(layer, module).weight.data, family.layer_weight(position, module)
        own = part_of(weight, module, family, lengths) if module.inside else weight
        fitted[name] = own.to(part[name].dtype)
    return fitted


@torch.no_grad()
def _fit_layer(
    family: Family, own: LayerStream, wanted: Passage, ridge: float, scale: float, *, parallel: bool
) -> States:
    """Fit the next layer of a child, and return the stream behind it; in parallel its MLP reads what attention does."""
    layer, came = own.next_layer(), own.states
    _fit_readers(layer, family.norms[0], (family.query, family.key, family.value), (came, wanted.before), ridge)
    output, mlp_out = (_linear(layer, module) for module in (family.output, family.mlp_out))
    with inputs_of(output) as heads:
        own.returned()
    attended = [x + scale * output(read) for x, read in zip(came, heads, strict=True)]
    attended = _fit_writer(output, heads, (attended, wanted.between), ridge, scale)
    streams = (came, wanted.before) if parallel else (attended, wanted.between)
    _fit_readers(layer, family.norms[-1], family.mlp_in, streams, ridge)
    norm, mlp = (layer.get_submodule(name) for name in (family.norms[-1].name, family.mlp_out.name.rpartition(".")[0]))
    with inputs_of(mlp_out) as neurons:
        written = [mlp(norm(states)) for states in streams[0]]
    returned = [x + scale * added for x, added in zip(attended, written, strict=True)]
    return _fit_writer(mlp_out, neurons, (returned, wanted.after), ridge, scale)


def _linear(layer: nn.Module, module: Module) -> nn.Linear:
    found = layer.get_submodule(module.inside or module.name)
    assert isinstance(found, nn.Linear)
    return found


def _fit_readers(
    layer: nn.Module, norm: Module, readers: Sequence[Module], streams: tuple[States, States], ridge: float
) -> None:
    """Fold into what reads a norm the prediction of what the norm makes of the wanted stream.

    The streams are the child's and the one that is wanted.
    """
    normed = layer.get_submodule(norm.name)
    features = [normed(states) for states in streams[0]]
    missing = (normed(goal).float() - came.float() for came, goal in zip(features, streams[1], strict=True))
    # A norm leaves nothing massive: first positions count like all others.
    change = regress_tokens(features, missing, [torch.ones(1, 1, 1)] * len(features), ridge, first=0)
    for module in {_linear(layer, reader) for reader in readers}:
        module.weight.data = module.weight.data + (module.weight.data.float() @ change).to(module.weight.dtype)


def _fit_writer(module: nn.Linear, read: States, streams: tuple[States, States], ridge: float, scale: float) -> States:
    """Add to a projection what takes the stream nearest to the one that is wanted; return the stream then.

    The streams are the child's and the one that is wanted; the scale is the factor of what the projection adds.

    Tokens count by the inverse square of the size of what is wanted, as norms will see them.
    """
    came, wanted = streams
    missing = ((goal - states).float() for states, goal in zip(came, wanted, strict=True))
    added = (regress_tokens(read, missing, token_weights(wanted), ridge, first=1) / scale).to(module.weight.dtype)
    module.weight.data = module.weight.data + added
    return [states + scale * functional.linear(features, added) for features, states in zip(read, came, strict=True)]
