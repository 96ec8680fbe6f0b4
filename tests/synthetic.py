"""What Ray's workers import in tests: an evaluator without a model, and no torch, which takes a second to import."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from budwood.arch.selection import Selection
from budwood.records.names import require_name
from budwood.search.candidate import Evaluate, Evaluation, canonical_key


@dataclass(frozen=True)
class Evaluator:
    """A synthetic loss; leaves a file for every process that opened it."""

    folder: Path
    poison: str = ""
    """Key of a candidate that ends its process."""
    killed_once: str = ""
    """Key of a candidate whose process is killed the first time."""
    wrong: str = ""
    """Key of a candidate that raises."""
    refused: str = ""
    """Key of a candidate that budwood refuses."""
    delay: float = 0.0
    """Seconds that a candidate takes."""

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield losses that depend on the genes and the sequence alone."""
        for place, selection in enumerate(selections):
            yield place, self.one(selection, sequences)

    def one(self, selection: Selection, sequences: slice) -> Evaluation:
        """Return the losses of a candidate, or die."""
        key = canonical_key(selection)
        time.sleep(self.delay)
        if key == self.poison or (key == self.killed_once and not (self.folder / "killed").exists()):
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if key == self.wrong:
            raise ArithmeticError(key)
        if key == self.refused:
            require_name("bins", "0.5b")
        loss = int(key, 16) / 2**64
        losses = [loss / (1 + 2 * place) for place in range(4)][sequences]
        return Evaluation(sequence_losses=losses, tokens=len(losses), flops=1.0, seconds=0.25)


def open_evaluator(evaluator: Evaluator) -> Evaluate:
    """Open an evaluator in a worker and leave a trace."""
    (evaluator.folder / f"opened-{os.getpid()}").touch()
    return evaluator
