"""The evaluators of a search, opened in this process or in workers."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor

from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.search.candidate import Evaluate
from budwood.search.fitness import FROM_SCORES, ScoreMethod
from budwood.search.settings import SearchSettings
from budwood.search.workers import RayEvaluate
from budwood.study.teacher import importance_of
from budwood.subnet.evaluate import ScoreEvaluator, SubnetEvaluator
from budwood.subnet.fitness import open_fitness
from budwood.subnet.importance import Importance, importance_of_weights
from budwood.subnet.moments import StoredMoments
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.scoring import component_scores
from budwood.subnet.settings import NO_CORRECTION, Ordering, SpaceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSource:
    """All that a process needs to evaluate candidates; workers get it by pickle."""

    teacher: Checkpoint
    importance: dict[str, Tensor]
    windows: Tensor
    """[N, T + 1] token ids that all candidates read."""
    space: SpaceSettings
    search: SearchSettings
    compute: Compute
    batch_size: int
    moments: StoredMoments | None = None
    """From which candidates are corrected; none where no regression is made."""

    def ordered(self) -> OrderedTeacher:
        """Return the teacher in the order of the space, its weights on disk."""
        return open_ordered(self.teacher.folder, self.space, importance_of(self.importance))

    def open(self) -> Evaluate:
        """Load the teacher and return the evaluator of the fitness.

        Raises:
            ValueError: this machine, that of a worker, does not have the teacher or its moments.
        """
        for folder in (self.teacher.folder, *([self.moments.folder] if self.moments else [])):
            if not folder.is_dir():
                raise ValueError(
                    f"search.workers: {folder} is not on {socket.gethostname()}: every node needs the data folder, "
                    "under the same path"
                )
        if self.search.fitness in FROM_SCORES:
            return self._open_scores()
        teacher = self.ordered().materialise(self.compute)
        return replace(self.reader(teacher), fitness=open_fitness(self.search.fitness, teacher))

    def reader(self, teacher: OrderedTeacher) -> SubnetEvaluator:
        """Return an evaluator of the loss; it knows which candidates belong together before weights are loaded."""
        return SubnetEvaluator(
            teacher=teacher,
            windows=self.windows,
            batch_size=self.batch_size,
            reuse=self.search.reuse,
            times="latency" in self.search.objectives,
            compensation=self.space.compensation or NO_CORRECTION,
            moments=self.moments,
        )

    def _open_scores(self) -> ScoreEvaluator:
        own = open_ordered(self.teacher.folder, Ordering(ordering="native"))
        importances: dict[ScoreMethod, Importance] = {}
        if self.importance:
            importances["importance"] = Importance.from_tensors(self.importance)
        if "magnitude" in self.search.score_methods or self.space.ordering == "magnitude":
            importances["magnitude"] = importance_of_weights(own.weights, own.architecture)
        shares = component_scores(self.search, importances).normalised(self.search.normalisation)
        if self.space.ordering != "native":
            by = importances["magnitude" if self.space.ordering == "magnitude" else "importance"]
            shares = shares.in_order(by, self.ordered().ranking)
        return ScoreEvaluator(shares=shares)


@contextmanager
def evaluating_candidates(source: EvaluatorSource) -> Iterator[Evaluate]:
    """Open the evaluator that a search calls: of this process, or one that hands candidates to workers."""
    search = source.search
    if search.workers == 1 or search.fitness in FROM_SCORES:
        yield source.open()
        return
    groups = source.reader(source.ordered()).groups
    with RayEvaluate(source.open, groups, search.workers, search.gpus_per_worker) as evaluate:
        yield evaluate
