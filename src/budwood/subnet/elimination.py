"""In which order the layers of a teacher are best left out."""

from pathlib import Path

from torch import Tensor

from budwood.arch.selection import Selection
from budwood.models.device import Compute
from budwood.search.elimination import Elimination, eliminate_layers
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering


def leave_layers_out(
    teacher: Path, windows: Tensor, compute: Compute, *, batch_size: int = 4, trials_file: Path | None = None
) -> Elimination:
    """Leave out layers of a teacher one by one, as `budwood.search.elimination` does.

    Args:
        teacher: a checkpoint folder.
        windows: [N, T + 1] token ids on which losses are compared.
        compute: device and precision.
        batch_size: sequences per forward pass.
        trials_file: where trials are written, so that a killed elimination continues; it belongs to this one alone.

    Raises:
        ValueError: a file is damaged, or the teacher's loss is not finite.
    """
    unordered = open_ordered(teacher, Ordering(ordering="native")).materialise(compute)
    evaluator = SubnetEvaluator(teacher=unordered, windows=windows, batch_size=batch_size)
    return eliminate_layers(Selection.prefix(unordered.ranked), evaluator, trials_file)
