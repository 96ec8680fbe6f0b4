"""How a study proceeds from searches to trained models."""

from pydantic import Field

from budwood.records.strict import Strict
from budwood.training.settings import Schedule


class ProtocolParameters(Strict):
    """The paper's way to choose a space (section 4.3): probe all of them on few tokens, train the best of each bin."""

    probe_tokens: int | None = Field(default=None, gt=0)
    """Tokens on which the sub-network of every (bin, space) is trained before the best space of each bin goes on to
    `schedule.tokens` with all arms; null: there are no probes, and every (bin, space) gets all arms."""

    num_seeds: int = Field(default=1, gt=0)
    """Times that every arm is trained: with `schedule.seed` and the seeds after it, which draw random weights and the
    order of the text. Probes, questions and speeds are of the first."""

    def seeds(self, schedule: Schedule) -> list[int]:
        """Return the seeds of a study."""
        return [schedule.seed + place for place in range(self.num_seeds)]

    def probe_schedule(self, schedule: Schedule) -> Schedule | None:
        """Return the schedule of a probe: the study's own, but shorter; None without probes.

        Raises:
            ValueError: probes are as long as the training that they choose for, or end before they have warmed up.
        """
        if self.probe_tokens is None:
            return None
        probe = with_tokens(schedule, self.probe_tokens)
        if probe.num_steps >= schedule.num_steps:
            raise ValueError(
                f"protocol.probe_tokens={self.probe_tokens} must be fewer than schedule.tokens={schedule.tokens}, "
                "by one optimiser step at least"
            )
        return probe


def with_tokens(schedule: Schedule, tokens: int) -> Schedule:
    """Return a schedule of another length.

    Raises:
        ValueError: it does not allow for that length.
    """
    return Schedule.model_validate(schedule.model_dump() | {"tokens": tokens})
