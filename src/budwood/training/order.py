"""In which order a run reads its text."""

import numpy as np
from numpy.typing import NDArray

from budwood.corpus.packing import PackedCorpus
from budwood.training.job import TrainingJob
from budwood.training.settings import Schedule


def training_order(corpus: PackedCorpus, schedule: Schedule) -> NDArray[np.int64]:
    """Return where the sequences of a whole run begin, in the order in which every arm of a seed reads them.

    A run longer than the training split reads it again in another order. The order of a shorter run begins alike.

    Raises:
        ValueError: the training split is shorter than one optimiser step.
    """
    starts = training_starts(corpus, schedule)
    rng = np.random.default_rng(schedule.seed)
    epochs = -(-schedule.num_sequences // len(starts))
    return np.concatenate([rng.permutation(starts) for _ in range(epochs)])[: schedule.num_sequences]


def training_starts(corpus: PackedCorpus, schedule: Schedule) -> NDArray[np.int64]:
    """Return where all sequences of the training split begin.

    Raises:
        ValueError: they are fewer than those of one optimiser step.
    """
    starts = corpus.window_starts("train", schedule.sequence_length)
    if len(starts) < schedule.global_batch:
        raise ValueError(
            f"the training split has {len(starts)} sequences of {schedule.sequence_length} tokens, fewer than one "
            f"step of global_batch={schedule.global_batch}; add text or shorten the sequences"
        )
    return starts


def reading_order(corpus: PackedCorpus, job: TrainingJob) -> NDArray[np.int64]:
    """Return where the sequences of a job begin: in the order of its schedule, or those of one batch over and over."""
    order = training_order(corpus, job.schedule)
    return np.resize(order[: job.schedule.global_batch], order.shape) if job.frozen_batch else order
