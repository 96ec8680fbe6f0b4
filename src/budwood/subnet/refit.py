"""Let every layer of a child make up for what its stream lacks by then: a fit on the child's own activations.

Other corrections predict what was removed from what the whole teacher computes. In a child, errors of the first layers
reach the later ones. Here the child reads calibration text layer by layer beside its teacher. Attention and then the
MLP are fitted by ridge regression, twice each: what they read, to what they would read if the child's stream were the
teacher's; and what they write, to what takes the child's stream to the teacher's at the same place: behind the layer,
or where layers are dropped, behind these.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.count import layer_flops_per_token
from budwood.arch.family import Family, Module, family_of
from budwood.arch.spec import Architecture
from budwood.subnet.extract import Cut, in_one_precision
from budwood.subnet.moments import residual_scale, whole_teacher
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.regression import first_direction, regress
from budwood.subnet.slicing import Indices
from budwood.subnet.stream import LayerStream, States, inputs_of, outputs_of

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Those that are tried where none is given."""
_EVERY, _FEWEST = 4, 2
"""One of so many sequences, the second one first, shows which ridge predicts best."""


@torch.no_grad()
def refit(
    child: PreTrainedModel, teacher: OrderedTeacher, cut: Cut, batches: Sequence[Tensor], ridge: float | None
) -> None:
    """Fit the layers of a child to the stream of its teacher.

    Args:
        child: of the cut, in evaluation mode; gets new weights and leaves the old ones as they are.
        teacher: the ordered teacher.
        cut: what the child keeps of it.
        batches: [N, T] token ids of calibration text each.
        ridge: of the regressions, relative to the unit variance of features; None: each takes the one that predicts a
            part of the text best from the rest.

    Raises:
        ValueError: there is too little text to choose ridges by.
    """
    if ridge is None and sum(map(len, batches)) < _FEWEST:
        raise ValueError(f"calibration must be at least {_FEWEST} sequences for a refit that chooses its ridges, got 1")
    family, depth, scale = teacher.family, teacher.architecture.num_hidden_layers, residual_scale(teacher)
    whole = LayerStream(whole_teacher(teacher), family.decoder, batches)
    # Only a child whose parameters differ in precision is not fitted in place.
    runs = child if len({parameter.dtype for parameter in child.parameters()}) == 1 else deepcopy(child)
    device = teacher.weights[family.final_norm.weight].device
    own = LayerStream(in_one_precision(runs, device), family.decoder, batches)
    kept = [layer.teacher_layer for layer in cut.layers]
    hidden = cut.layers[0].axes["hidden"]
    bar = tqdm(zip(kept, [*kept[1:], depth], strict=True), total=len(kept), desc="refit", unit="layer")
    for position, (layer, following) in enumerate(bar):
        whole.advance(layer)
        before = _channels(whole.states, hidden)
        with outputs_of(whole.layers[layer].get_submodule(family.mlp_out.name)) as written:
            whole.advance(layer + 1)
        between = [after - scale * added for after, added in zip(whole.states, written, strict=True)]
        whole.advance(following)
        wanted = _Wanted(before, _channels(between, hidden), _channels(whole.states, hidden))
        own_layer, place = own.layers[position], f"{family.decoder}.{position}."
        own.pass_on(_fit_layer(family, own, wanted, ridge, scale))
        for name in {family.layer_path(position, module) for module in (*family.readers, family.output, family.mlp_out)}:
            fitted = own_layer.get_parameter(f"{name.removeprefix(place)}.weight")
            weight = child.get_parameter(f"{name}.weight")
            weight.data = fitted.data.to(weight.device, weight.dtype)


def refit_flops(child: Architecture, ridge: float | None, *, num_tokens: int, context: int) -> float:
    """Return the FLOPs of fitting a child, beside the teacher's pass over the text.

    The child's layers run once, and their MLPs once more. A fit of m targets to n entries takes 2n^2 + 2nm for every
    token, and for every ridge n^3/3 + 2n^2m (Cholesky); where ridges are compared, 2n^2m more for each.

    Args:
        child: the child.
        ridge: of the regressions; None where they choose.
        num_tokens: of calibration text.
        context: tokens of a sequence.
    """
    width, flops = child.hidden_size, float(num_tokens * layer_flops_per_token(child, *child.layers, context=context))
    num_mlp_matrices = len(family_of(child.family).mlp_in) + 1
    for spec in child.layers:
        flops += 2.0 * num_tokens * num_mlp_matrices * width * spec.intermediate_size
        for n in (width, spec.num_attention_heads * spec.head_dim, width, spec.intermediate_size):
            solved, compared = n**3 / 3 + 2 * n**2 * width, 2 * n**2 * width
            flops += (2 * n**2 + 2 * n * width) * num_tokens + solved
            flops += len(RIDGES) * (solved + compared) if ridge is None else 0
    return flops


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The teacher's stream, in the channels that a child keeps."""

    before: States
    """Into a layer."""
    between: States
    """Behind its attention."""
    after: States
    """Behind its MLP and the layers that are dropped after it."""


def _fit_layer(family: Family, own: LayerStream, wanted: _Wanted, ridge: float | None, scale: float) -> States:
    """Fit the next layer of a child, and return the stream behind it."""
    layer, came = own.layers[own.depth], own.states
    _fit_readers(layer, family.norms[0], (family.query, family.key, family.value), (came, wanted.before), ridge)
    output, mlp_out = (_linear(layer, module) for module in (family.output, family.mlp_out))
    with inputs_of(output) as heads:
        own.returned()
    attended = [x + scale * output(read) for x, read in zip(came, heads, strict=True)]
    attended = _fit_writer(output, heads, (attended, wanted.between), ridge, scale)
    streams = (came, wanted.before) if family.parallel else (attended, wanted.between)
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


def _channels(states: States, hidden: Indices) -> States:
    kept = torch.tensor(list(hidden), device=states[0].device)
    return [each.index_select(-1, kept) for each in states]


def _fit_readers(
    layer: nn.Module, norm: Module, readers: Sequence[Module], streams: tuple[States, States], ridge: float | None
) -> None:
    """Fold into what reads a norm the prediction of what the norm makes of the wanted stream.

    The streams are the child's and the one that is wanted.
    """
    normed = layer.get_submodule(norm.name)
    # A norm leaves nothing massive.
    fit = _Fit(first=0)
    for came, goal in zip(*streams, strict=True):
        features = normed(came)
        fit.add(features, normed(goal).float() - features.float())
    change = fit.solve(ridge)
    for module in {_linear(layer, reader) for reader in readers}:
        module.weight.data = module.weight.data + (module.weight.data.float() @ change).to(module.weight.dtype)


def _fit_writer(
    module: nn.Linear, read: States, streams: tuple[States, States], ridge: float | None, scale: float
) -> States:
    """Add to a projection what takes the stream nearest to the one that is wanted; return the stream then.

    The streams are the child's and the one that is wanted; the scale is the factor of what the projection adds.

    Tokens count by the inverse square of the size of what is wanted, as norms will see them.
    """
    fit = _Fit(first=1)
    for features, came, goal in zip(read, *streams, strict=True):
        size = goal.float().square().mean(-1, keepdim=True)
        fit.add(features, goal - came, torch.where(size > 0, size.rsqrt(), 0.0))
    added = (fit.solve(ridge) / scale).to(module.weight.dtype)
    module.weight.data = module.weight.data + added
    return [came + scale * functional.linear(features, added) for features, came in zip(read, streams[0], strict=True)]


@dataclass(slots=True)
class _Fit:
    """A regression on text that is given batch by batch; first positions are left as they are."""

    first: int
    """Positions at the beginning of a sequence that do not count, because massive activations would drown all others.
    """
    moments: list[Tensor] = field(default_factory=lambda: [torch.zeros(()), torch.zeros(())])
    """[n, n] sums over the sequences that are fitted and over those that are held out."""
    targets: list[Tensor] = field(default_factory=lambda: [torch.zeros(()), torch.zeros(())])
    """[n, m]"""
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    firsts: States = field(default_factory=list)
    sequences: int = 0

    def add(self, features: Tensor, missing: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add [N, T, n] features, [N, T, m] what they are to predict, and [N, T, 1] the root of what tokens count."""
        self.firsts.append(features[:, 0].float())
        inputs, targets = ((each.float() * weight)[:, self.first :] for each in (features, missing))
        is_held_out = (torch.arange(self.sequences, self.sequences + len(inputs)) % _EVERY == 1).to(inputs.device)
        for part, chosen in enumerate((~is_held_out, is_held_out)):
            x, y = inputs[chosen].flatten(0, 1), targets[chosen].flatten(0, 1)
            self.moments[part] = self.moments[part].to(x) + x.T @ x
            self.targets[part] = self.targets[part].to(x) + x.T @ y
            self.tokens[part] += len(x)
        self.sequences += len(inputs)

    def solve(self, ridge: float | None) -> Tensor:
        """Return [m, n] the coefficients; with no ridge given, those of the one that predicts best, or zeros."""
        held = first_direction(torch.cat(self.firsts))
        tokens, moment, target = sum(self.tokens), sum(self.moments), sum(self.targets)
        assert isinstance(moment, Tensor)
        assert isinstance(target, Tensor)
        if ridge is None:
            errors = {ridge: self._error(ridge, held) for ridge in RIDGES}
            ridge = min(errors, key=errors.__getitem__)
            if not errors[ridge] < 0:
                return torch.zeros_like(target.T)
        return regress(moment / tokens, target / tokens, ridge, held).T.float()

    def _error(self, ridge: float, held: Tensor) -> float:
        """Return by how much a fit changes the mean square error of the sequences that are held out."""
        (fitted, left), (wanted, goal) = self.moments, self.targets
        found = regress(fitted / self.tokens[0], wanted / self.tokens[0], ridge, held).to(left)
        return float((found * (left @ found - 2 * goal)).sum()) / self.tokens[1]
