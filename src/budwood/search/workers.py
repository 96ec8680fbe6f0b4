"""Candidates spread over processes or GPUs with Ray; the search sees one `Evaluate` and the same results.

Ray is an optional dependency, and one process needs none of it. Every worker loads the teacher once and keeps it.
Workers that die are replaced and their candidates evaluated again; a candidate that kills every worker is given up.
"""

import importlib.util
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from budwood.arch.selection import Selection
from budwood.records.refusal import is_refusal
from budwood.search.candidate import Evaluate, Evaluation

Groups = Callable[[Sequence[Selection]], list[list[int]]]
"""Takes candidates and returns places of those that one worker evaluates best together."""

MAX_RETRIES = 2
"""Times that a group of candidates, and then each of them, is given to another worker when one has died."""

_evaluators: dict[str, Evaluate] = {}
_logger = logging.getLogger(__name__)


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError("search.workers: more than one worker needs Ray: pip install 'budwood[ray]'")


class RayEvaluate:
    """An `Evaluate` whose candidates are evaluated by Ray tasks; a context manager that starts and stops Ray."""

    def __init__(
        self, open_evaluator: Callable[[], Evaluate], groups: Groups, num_workers: int, num_gpus: float = 0
    ) -> None:
        """Say how to work.

        Args:
            open_evaluator: called once in every worker process; goes there by pickle.
            groups: candidates that stay together.
            num_workers: processes. Where `RAY_ADDRESS` names a cluster, it runs as many as its resources allow.
            num_gpus: GPUs of a worker.

        Raises:
            ValueError: Ray is not installed.
        """
        require_ray()
        self._open, self._groups, self._num_workers, self._num_gpus = open_evaluator, groups, num_workers, num_gpus
        self._name = uuid.uuid4().hex

    def __enter__(self) -> Self:
        """Start Ray, or join the cluster of `RAY_ADDRESS`.

        Raises:
            ValueError: it has fewer GPUs than one worker needs.
        """
        import ray  # noqa: PLC0415 - optional

        self._ray: Any = ray
        # Ray gives its workers the lowest priority; here they are the work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        # Without an address Ray looks for a cluster that was started here, and fails where that one is dead.
        local = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "num_cpus": self._num_workers, **quiet}
        self._ray.init(**local)
        self._require_gpus()
        # Otherwise a worker that may use a GPU ends with its first task, and the teacher is loaded for each.
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": self._num_gpus,
            "max_calls": 0,
            "max_retries": MAX_RETRIES,
        }
        self._task = self._ray.remote(**options)(_evaluate)
        self._shared = self._ray.put(self._open)
        return self

    def _require_gpus(self) -> None:
        """Refuse to wait for ever for GPUs that no machine has."""
        owned = self._ray.cluster_resources().get("GPU", 0) if self._num_gpus else 0
        if self._num_gpus > owned:
            self._ray.shutdown()
            raise ValueError(
                f"search.gpus_per_worker={self._num_gpus:g}: Ray's machines have {owned:g} GPUs, so no worker would "
                "ever start"
            )

    def __exit__(self, *_: object) -> None:
        """Stop the workers; idle ones would keep the teacher in memory."""
        self._ray.shutdown()

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield every candidate's place and losses as workers return them.

        Raises:
            Exception: what an evaluation raised; only the death of its worker is forgiven. What budwood refuses there
                is raised as it is here, a bug with the traceback of the worker.
        """
        pending = {self._submit(selections, places, sequences): places for places in self._groups(selections)}
        while pending:
            (done,), _ = self._ray.wait(list(pending))
            places = pending.pop(done)
            try:
                made = self._ray.get(done)
            except self._ray.exceptions.RayTaskError:
                raise  # a bug: Ray's message has the traceback of the worker
            except self._ray.exceptions.RayError as error:
                if len(places) > 1:
                    pending |= {self._submit(selections, [place], sequences): [place] for place in places}
                    continue
                _logger.warning("A candidate ended its worker %d times (%s) and is given up", MAX_RETRIES + 1, error)
                yield places[0], _given_up(sequences)
                continue
            if isinstance(made, Exception):
                raise made from None
            yield from zip(places, made, strict=True)

    def _submit(self, selections: Sequence[Selection], places: Sequence[int], sequences: slice) -> Any:
        return self._task.remote(self._name, self._shared, [selections[place] for place in places], sequences)


def _evaluate(
    name: str, open_evaluator: Callable[[], Evaluate], selections: Sequence[Selection], sequences: slice
) -> list[Evaluation] | Exception:
    """Evaluate candidates in a worker, with the evaluator that it keeps; return what it refuses.

    Ray would raise that with a traceback for a message.
    """
    try:
        if name not in _evaluators:
            _evaluators[name] = open_evaluator()
        made = sorted(_evaluators[name](selections, sequences), key=lambda made: made[0])
    except Exception as error:
        if is_refusal(error):
            return error
        raise
    return [evaluation for _, evaluation in made]


def _given_up(sequences: slice) -> Evaluation:
    losses = [math.nan] * (sequences.stop - sequences.start)
    return Evaluation(sequence_losses=losses, tokens=0, flops=0.0, seconds=0.0)
