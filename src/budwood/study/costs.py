"""What stages cost, as functions of what they read and run: the ledger and the plan call the same ones."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, layer_flops_per_token, pass_flops
from budwood.arch.family import family_of
from budwood.arch.proportions import in_small
from budwood.arch.spec import Architecture
from budwood.evaluation.continuations import continuation_flops
from budwood.records.cost import Cost, CostStage
from budwood.records.workload import Workload
from budwood.search.elimination import Kept, expected_trials
from budwood.search.fitness import DIVERGENCE
from budwood.study.settings import BinSettings
from budwood.subnet.elimination import NUM_TOGETHER
from budwood.subnet.flops import (
    layout_work,
    logit_metric_flops,
    moment_work,
    pass_work,
    ran_alone,
    refit_work,
    refits,
    solve_work,
    trial_flops_per_token,
)
from budwood.subnet.settings import NO_CORRECTION, Compensation
from budwood.training.settings import Schedule

Forward = Callable[[int], float]
"""FLOPs of a model's forward pass, per token, by the number of tokens of the text."""

_SHARES = 1000
"""Sizes of the teacher in small that are tried for a bin of limits alone."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much text is read."""

    count: int
    """Sequences."""
    length: int
    """Tokens predicted in each."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are predicted."""
        return self.count * self.length


def forward_of(model: Architecture) -> Forward:
    """Return the FLOPs of a model's forward pass as a function of the length of the text."""
    return lambda length: float(forward_flops_per_token(model, context=length))


def reading_cost(stage: CostStage, model: Architecture | float, text: Extent) -> Cost:
    """Return what it costs a model to read a text once.

    Args:
        stage: in which it does.
        model: its architecture, or the FLOPs of its forward pass per token.
        text: what it reads.
    """
    forward = model if isinstance(model, float) else forward_flops_per_token(model, context=text.length)
    return Cost.of(stage, text.num_tokens, forward)


def stream_cost(stage: CostStage, model: Architecture, text: Extent) -> Cost:
    """Return what it costs the layers of a model to read a text once; its head reads nothing.

    Args:
        stage: in which they do.
        model: its architecture.
        text: what they read.
    """
    return Cost.of(stage, text.num_tokens, layer_flops_per_token(model, *model.layers, context=text.length))


def fitness_costs(fitness: str, teacher: Architecture, text: Extent) -> list[Cost]:
    """Return what a fitness costs once a search: of `kl` the teacher reads the text by which candidates are compared.

    Args:
        fitness: its name.
        teacher: all of it.
        text: what candidates read.
    """
    return [reading_cost("search", teacher, text)] if fitness == DIVERGENCE else []


def elimination_cost(teacher: Architecture, text: Extent, calls: Sequence[Sequence[Kept]] | None = None) -> Cost:
    """Return what it costs to leave layers out one by one.

    Args:
        teacher: all layers.
        text: read in each trial.
        calls: trials that were asked for together, the layers that each kept; what is expected where that is not known.
    """
    calls = expected_trials(teacher.num_hidden_layers) if calls is None else calls
    capped = family_of(teacher.family).caps_logits
    passes = [call[first : first + NUM_TOGETHER] for call in calls for first in range(0, len(call), NUM_TOGETHER)]
    tried = [
        Cost.of("elimination", text.num_tokens, trial_flops_per_token(teacher, ran, context=text.length, capped=capped))
        for trials in passes
        for ran in ran_alone(trials)
    ]
    metric = Cost(stage="elimination", flops=float(logit_metric_flops(teacher, capped=capped)), tokens=0)
    return Cost.total("elimination", [metric, *tried])


@dataclass(frozen=True, slots=True)
class Correction:
    """A cut, how it is corrected, and from which texts."""

    teacher: Architecture
    child: Architecture
    num_gaps: int
    """Runs of dropped layers that follow a kept one."""
    settings: Compensation | None
    """Corrections without a regression cost nothing."""
    calibration: Extent
    """The text behind regressions on the teacher's activations."""
    refitting: Extent
    """The text to which the child is refitted."""

    def cost(self) -> Cost:
        """Return what correcting costs: passes of the teacher over text, and the regressions."""
        parts = self._parts()
        tokens, flops = sum(text.num_tokens for text, _ in parts), sum(work.flops for _, work in parts)
        return Cost(stage="compensation", tokens=tokens, flops=flops)

    def work(self) -> Workload:
        """Return what a machine does to cut the child out, to correct it, and to write it.

        The float32 copies on which a proof runs are counted, its FLOPs are not.
        """
        parts = [work for _, work in self._parts()]
        layout = layout_work(self.teacher, self.child, self.settings or NO_CORRECTION, num_passes=len(parts))
        return sum(parts, layout)

    def _parts(self) -> list[tuple[Extent, Workload]]:
        """Return the texts that are read, each with what is done for it; the teacher's pass is part of that."""
        cut, texts = (self.teacher, self.child), dict[Extent, Workload]()
        if self.settings is not None:
            tokens = self.calibration.num_tokens
            work = moment_work(*cut, self.settings, num_tokens=tokens, num_gaps=self.num_gaps)
            work += solve_work(*cut, self.settings, num_gaps=self.num_gaps)
            texts |= {self.calibration: work} if work.flops else {}
            if refits(*cut, self.settings):
                text = self.refitting
                fitting = refit_work(self.child, num_tokens=text.num_tokens, context=text.length)
                texts[text] = texts.get(text, Workload()) + fitting
        return [
            (text, work + pass_work(self.teacher, num_tokens=text.num_tokens, context=text.length))
            for text, work in texts.items()
        ]


def moments_cost(teacher: Architecture, settings: Compensation, num_gaps: int, calibration: Extent) -> Cost:
    """Return what it costs, once for all searches of one order, to gather what candidates are corrected from.

    Args:
        teacher: all of it.
        settings: which corrections are made.
        num_gaps: runs of dropped layers that candidates can have.
        calibration: the text.
    """
    passed = stream_cost("search", teacher, calibration)
    work = moment_work(teacher, None, settings, num_tokens=calibration.num_tokens, num_gaps=num_gaps)
    return passed.model_copy(update={"flops": passed.flops + work.flops})


def choice_cost(
    finalists: Sequence[Forward], choice: Extent, corrections: Sequence[Cost], training: tuple[Schedule, int] | None
) -> Cost:
    """Return what it costs to compare finalists, beside the correction of the winner.

    Args:
        finalists: FLOPs of the forward pass of each.
        choice: the text on which they are compared.
        corrections: of those that lose.
        training: the schedule by which each is trained before, and the held-out sequences of its curve; None: no.
    """
    read = [reading_cost("search", forward(choice.length), choice) for forward in finalists]
    if training is not None:
        schedule, heldout = training
        points, length = len(schedule.evaluation_steps), schedule.sequence_length
        for forward in finalists:
            read.append(Cost.of("search", schedule.num_tokens, 3 * forward(length)))
            read.append(reading_cost("search", forward(length), Extent(points * heldout, length)))
    return Cost.total("search", [*read, *corrections])


def proof_cost(forward: Forward, lengths: Sequence[int]) -> Cost:
    """Return what a proof costs: its texts run through the child in memory and the one loaded again.

    Args:
        forward: of the child.
        lengths: tokens of the texts.
    """
    return _certificate_cost(forward, [Extent(2, length) for length in lengths])


def check_cost(forward: Forward, lengths: Sequence[int], num_chat_tokens: int) -> Cost:
    """Return what a certificate costs beside its proof.

    The prompts run one by one and as one padded batch; then a question is asked, if the model has a form for one.

    Args:
        forward: of the child.
        lengths: tokens of the prompts.
        num_chat_tokens: of the question with its answer; 0 where none is asked.
    """
    alone = [Extent(1, length) for length in lengths]
    return _certificate_cost(forward, [*alone, Extent(len(lengths), max(lengths)), Extent(1, num_chat_tokens)])


def _certificate_cost(forward: Forward, texts: Sequence[Extent]) -> Cost:
    costs = (reading_cost("certificate", forward(text.length), text) for text in texts if text.length)
    return Cost.total("certificate", costs)


def writing_cost(model: Architecture, first: int, written: Sequence[int], compared: Sequence[int] = ()) -> Cost:
    """Return what it costs a model to continue prompts, and to read what the teacher wrote.

    All are continued together: those that end are run on until the last one ends.

    Args:
        model: its architecture.
        first: tokens of a prompt.
        written: tokens that it appends to each; the last one of the longest is not read.
        compared: the same of the teacher, where the two are compared; shorter ones are padded.
    """
    tokens = flops = 0
    if written:
        tokens += len(written) * (first + max(written) - 1)
        flops += len(written) * continuation_flops(model, first, max(written))
    if compared:
        length = first + max(compared) - 1
        tokens += len(compared) * length
        flops += len(compared) * pass_flops(model, length, context=length, num_logits=max(compared))
    return Cost(stage="evaluation", tokens=tokens, flops=float(flops))


def training_costs(student: float, teacher: float, schedule: Schedule, *, done: int = 0) -> list[Cost]:
    """Return what a run costs beside its held-out losses.

    Args:
        student: FLOPs of a forward pass of the student, per token at the schedule's length; training takes three.
        teacher: the same of a teacher that takes part; 0 without one.
        schedule: of the run.
        done: tokens that it takes over from another run.
    """
    tokens = schedule.num_tokens - done
    costs = [Cost.of("training", tokens, 3 * student)]
    return [*costs, Cost.of("teacher", tokens, teacher)] if teacher else costs


def heldout_cost(student: Architecture | float, schedule: Schedule, windows: int, points: int) -> Cost:
    """Return what the held-out losses on the way cost.

    Args:
        student: its architecture, or the FLOPs of its forward pass per token.
        schedule: of the run.
        windows: sequences that are read at every point.
        points: of the curve.
    """
    return reading_cost("heldout", student, Extent(points * windows, schedule.sequence_length))


def cache_cost(teacher: Architecture, length: int, num_tokens: int) -> Cost:
    """Return what it costs to ask the teacher about some tokens once."""
    flops = forward_flops_per_token(teacher, context=length)
    return Cost.of("teacher_cache", num_tokens, flops).model_copy(update={"arm": "distilled"})


def sweep_cost(
    student: Forward,
    teacher: Architecture | None,
    schedule: Schedule,
    choice: Extent,
    *,
    num_rates: int,
    from_weights: bool,
) -> Cost:
    """Return what it costs to try learning rates on few tokens.

    Args:
        student: FLOPs of its forward pass.
        teacher: takes part beside it; None without one.
        schedule: of the short runs.
        choice: the text on which they are compared.
        num_rates: that are tried.
        from_weights: whether the untrained student is measured too.
    """
    length, num_points = schedule.sequence_length, len(schedule.evaluation_steps)
    texts = [
        Extent(num_rates * (3 * schedule.num_sequences + num_points), length),
        Extent((num_rates + from_weights) * choice.count, choice.length),
    ]
    costs = [reading_cost("sweep", student(text.length), text) for text in texts]
    if teacher is not None:
        costs.append(reading_cost("sweep", teacher, Extent(num_rates * schedule.num_sequences, length)))
    return Cost.total("sweep", costs).model_copy(update={"tokens": num_rates * schedule.num_tokens})


def bin_center(bin_: BinSettings, parameter_bin: ParameterBin, teacher: Architecture) -> Architecture:
    """Return the model by which the paper charges a search: the bin's reference, or the teacher in small.

    In a bin of limits alone it is the largest that keeps them, to a thousandth of the teacher.
    """
    if bin_.reference:
        return bin_.reference.architecture()
    if parameter_bin.least_load:
        sizes = [parameter_bin.high * share / _SHARES for share in range(1, _SHARES + 1)]
        place = bisect_right(sizes, 1.0, key=lambda size: parameter_bin.load(in_small(teacher, size)))
        return in_small(teacher, sizes[max(0, place - 1)])
    return in_small(teacher, (parameter_bin.low + parameter_bin.high) / 2)
