"""Training runs that are killed in this process, and what finished ones left, to compare them."""

from collections.abc import Callable, Mapping

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from budwood.training.curve import read_curve
from budwood.training.job import TrainingJob


class KilledError(Exception):
    """Stands for a kill."""


def kill_at(step: int) -> Callable[[Mapping[str, float], int], None]:
    """Return a tracker that raises at a step."""

    def track(_metrics: Mapping[str, float], at: int) -> None:
        if at == step:
            raise KilledError

    return track


def weights(job: TrainingJob) -> dict[str, Tensor]:
    """Return the weights that a job ended with."""
    return load_file(job.output_folder / "model" / "model.safetensors")


def assert_same(one: TrainingJob, other: TrainingJob) -> None:
    """Assert that two runs ended with the same weights and the same curve, to the bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert read_curve(one.output_folder) == read_curve(other.output_folder)


def assert_close(one: TrainingJob, other: TrainingJob, tolerance: float) -> None:
    """Assert that two curves have the same rows, and the same numbers within a relative tolerance."""
    for first, second in zip(*(read_curve(job.output_folder) for job in (one, other)), strict=True):
        assert first.keys() == second.keys()
        assert all(first[name] == pytest.approx(second[name], rel=tolerance) for name in first)
