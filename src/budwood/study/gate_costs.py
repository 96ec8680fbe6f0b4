"""What the checks before a training cost, for the ledger and the plan."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

from budwood.arch.spec import Architecture, LayerSpec
from budwood.records.cost import Cost
from budwood.records.gate import LONG_STEPS, OVERFIT_STEPS
from budwood.study.costs import Extent, reading_cost
from budwood.training.settings import Schedule

HalvedAxis = Literal["channels", "layers", "heads", "neurons"]
"""Axes of which the gate of an order keeps a half; heads are those of keys and values, with their queries."""
START_LENGTHS = (99, 8)
"""Tokens predicted of the certificate's prompts on which a start is checked: all but the longest."""


def halved(teacher: Architecture, axis: HalvedAxis) -> Architecture:
    """Return an architecture with the first half of one axis, rounded up."""
    if axis == "channels":
        return replace(teacher, hidden_size=_half(teacher.hidden_size))
    if axis == "layers":
        return teacher.with_layers(teacher.layers[: _half(teacher.num_hidden_layers)])
    layers = (
        replace(layer, intermediate_size=_half(layer.intermediate_size))
        if axis == "neurons"
        else LayerSpec.of(
            _half(layer.num_key_value_heads), layer.heads_per_group, layer.head_dim, layer.intermediate_size
        )
        for layer in teacher.layers
    )
    return teacher.with_layers(tuple(layers))


def _half(number: int) -> int:
    return -(-number // 2)


def order_gate_costs(teacher: Architecture, text: Extent) -> dict[HalvedAxis, Cost]:
    """Return what it costs to check the order of every axis that can be halved: three cuts read the text.

    Args:
        teacher: what is ordered.
        text: what they read.
    """
    halves: dict[HalvedAxis, Architecture] = {axis: halved(teacher, axis) for axis in get_args(HalvedAxis)}
    thrice = Extent(3 * text.count, text.length)
    return {axis: reading_cost("gate", half, thrice) for axis, half in halves.items() if half != teacher}


def start_gate_cost(forwards: Mapping[int, float]) -> Cost:
    """Return what it costs to check the loss of a start.

    Args:
        forwards: FLOPs of the student's forward pass per token, by the tokens of each prompt.
    """
    tokens, flops = sum(forwards), sum(length * forward for length, forward in forwards.items())
    return Cost(stage="gate", tokens=tokens, flops=flops)


def is_long(schedule: Schedule) -> bool:
    """Return whether a run is long enough for a check that its student learns."""
    return schedule.num_steps >= LONG_STEPS


def overfit_schedule(schedule: Schedule) -> Schedule:
    """Return the schedule of that check."""
    return schedule.brief(OVERFIT_STEPS * schedule.tokens_per_step)


def overfit_cost(student: Architecture | float, teacher: Architecture | float | None, schedule: Schedule) -> Cost:
    """Return what that check costs.

    Args:
        student: its architecture, or the FLOPs of its forward pass per token.
        teacher: the same of a teacher that takes part.
        schedule: of the run that is checked.
    """
    brief = overfit_schedule(schedule)
    length = brief.sequence_length
    passes = [Extent(3 * brief.num_sequences, length), Extent(len(brief.evaluation_steps), length)]
    costs = [reading_cost("gate", student, text) for text in passes]
    if teacher is not None:
        costs.append(reading_cost("gate", teacher, Extent(brief.num_sequences, length)))
    return Cost(stage="gate", tokens=brief.num_tokens, flops=sum(cost.flops for cost in costs))
