"""Teachers that are ordered by the text of a test, and single corrections."""

import torch
from teachers import architecture_of, measure_importance, weights_of

from budwood.subnet.compensate import cut_out
from budwood.subnet.ordering import order_teacher
from budwood.subnet.settings import NO_CORRECTION, Compensation, Ordering


def only(step: str, **changes) -> Compensation:
    """Return a compensation that makes one correction."""
    return Compensation(**NO_CORRECTION.model_dump() | {step: True, **changes})


def logits_of(model, windows):
    """Return the logits of some token ids."""
    with torch.no_grad():
        return model(windows).logits


def ordered_by(teacher, windows):
    """Return a teacher in memory, ordered by the given text."""
    architecture = architecture_of(teacher)
    importance = measure_importance(teacher, architecture, windows)
    return order_teacher(
        weights_of(teacher), teacher.config.to_dict(), architecture, Ordering(layer_score="change"), importance
    )


def compensate(teacher, selection, windows, settings, *, batch_size=4):
    """Return a corrected candidate in memory."""
    return cut_out(teacher, selection, windows, settings, batch_size=batch_size).assemble()
