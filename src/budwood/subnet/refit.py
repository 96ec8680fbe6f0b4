"""Let every layer of a child make up for what its stream lacks by then: a fit on the child's own activations.

Other corrections predict what was removed from what the whole teacher computes. In a child, errors of the first layers
reach the later ones. Here the child reads calibration text layer by layer beside its teacher. What attention and then
the MLP write is fitted, by ridge regression on what the output projections read, to what takes the child's stream to
the teacher's at the same place: behind the layer, or where layers are dropped, behind these.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PretrainedConfig

from budwood.arch.count import layer_flops_per_token
from budwood.arch.family import Module
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty
from budwood.models.stream import LayerStream, States, fill, hollow, inputs_of, outputs_of
from budwood.models.tensors import State, fuse
from budwood.subnet.extract import Cut
from budwood.subnet.moments import residual_scale, teacher_stream
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.regression import first_direction, regress
from budwood.subnet.slicing import Indices


@torch.no_grad()
def refitted(
    parts: Iterable[State],
    config: PretrainedConfig,
    teacher: OrderedTeacher,
    cut: Cut,
    batches: Sequence[Tensor],
    ridge: float,
) -> Iterator[State]:
    """Yield the parts of a child with output projections that are fitted to the stream of its teacher.

    Args:
        parts: of the child: the embedding, its layers in depth order, and the rest.
        config: the child's.
        teacher: the ordered teacher.
        cut: what the child keeps of it.
        batches: [N, T] token ids of calibration text each.
        ridge: of the regressions, relative to the unit variance of features.
    """
    family, depth, scale = teacher.family, teacher.architecture.num_hidden_layers, residual_scale(teacher)
    made = iter(parts)
    embedding = next(made)
    yield embedding
    model = hollow(build_empty(config), family.decoder, teacher.device, teacher.dtype)
    fill(model, {name: weight.to(teacher.dtype) for name, weight in embedding.items()})
    whole, part = teacher_stream(teacher, batches), State()
    own = LayerStream(model, family.decoder, batches, lambda _: _in_one_precision(part, teacher, cut))
    kept = [layer.teacher_layer for layer in cut.layers]
    hidden = cut.layers[0].axes["hidden"]
    bar = tqdm(zip(kept, [*kept[1:], depth], strict=True), total=len(kept), desc="refit", unit="layer")
    for position, (layer, following) in enumerate(bar):
        part = next(made)
        whole.advance(layer)
        with outputs_of(whole.next_layer().get_submodule(family.mlp_out.name)) as written:
            whole.advance(layer + 1)
        between = [after - scale * added for after, added in zip(whole.states, written, strict=True)]
        own_layer = own.next_layer()
        output, mlp_out = (_linear(own_layer, module) for module in (family.output, family.mlp_out))
        with inputs_of(output) as heads:
            own.returned()
        attended = [x + scale * output(read) for x, read in zip(own.states, heads, strict=True)]
        _fit(output, heads, attended, _channels(between, hidden), ridge, scale)
        with inputs_of(mlp_out) as neurons:
            returned = own.returned()
        whole.advance(following)
        added = _fit(mlp_out, neurons, returned, _channels(whole.states, hidden), ridge, scale)
        for module, fitted in ((family.output, output), (family.mlp_out, mlp_out)):
            name = family.layer_weight(position, module)
            part[name] = fitted.weight.data.to(part[name].dtype)
        own.pass_on(
            [came + scale * functional.linear(read, added) for came, read in zip(returned, neurons, strict=True)]
        )
        yield part
    yield from made


def _in_one_precision(part: State, teacher: OrderedTeacher, cut: Cut) -> State:
    return fuse({name: weight.to(teacher.dtype) for name, weight in part.items()}, cut.architecture)


def refit_flops(child: Architecture, *, num_tokens: int, context: int) -> float:
    """Return the FLOPs of fitting a child, beside the teacher's pass over the text.

    The child's layers run twice. An output projection of n columns and E' rows takes 2n^2 + 2nE' for every token, and
    n^3/3 + 2n^2E' to solve (Cholesky).

    Args:
        child: the child.
        num_tokens: of calibration text.
        context: tokens of a sequence.
    """
    flops = 2.0 * num_tokens * layer_flops_per_token(child, *child.layers, context=context)
    for spec in child.layers:
        for n in (spec.num_attention_heads * spec.head_dim, spec.intermediate_size):
            flops += (2 * n**2 + 2 * n * child.hidden_size) * num_tokens + n**3 / 3 + 2 * n**2 * child.hidden_size
    return flops


def _linear(layer: nn.Module, module: Module) -> nn.Linear:
    found = layer.get_submodule(module.name)
    assert isinstance(found, nn.Linear)
    return found


def _channels(states: States, hidden: Indices) -> States:
    kept = torch.tensor(list(hidden), device=states[0].device)
    return [each.index_select(-1, kept) for each in states]


def _fit(module: nn.Linear, read: States, reached: States, wanted: States, ridge: float, scale: float) -> Tensor:
    """Add to a projection what takes the stream nearest to the one that is wanted; return what was added.

    The scale is the factor of what the projection adds to the stream.

    Tokens count by the inverse square of the size of what is wanted, as norms will see them. The first position is left
    as it is.
    """
    moment, target, tokens = torch.zeros(()), torch.zeros(()), 0
    for features, came, goal in zip(read, reached, wanted, strict=True):
        size = goal[:, 1:].float().square().mean(-1, keepdim=True)
        weight = torch.where(size > 0, size.rsqrt(), 0.0)
        inputs = (features[:, 1:].float() * weight).flatten(0, 1)
        missing = ((goal - came)[:, 1:].float() * weight).flatten(0, 1)
        moment, target = moment.to(inputs) + inputs.T @ inputs, target.to(inputs) + inputs.T @ missing
        tokens += len(inputs)
    held = first_direction(torch.cat([features[:, 0].float() for features in read]))
    added = (regress(moment / tokens, target / tokens, ridge, held).T / scale).to(module.weight.dtype)
    module.weight.data = module.weight.data + added
    return added
