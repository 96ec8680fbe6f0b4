"""Whether arms were trained and measured alike, so that their losses compare."""

from collections.abc import Callable, Mapping, Sequence

from budwood.records.cost import Cost
from budwood.records.names import BASELINE, REFERENCE
from budwood.records.training import Score

_FREE = {"preset", "tokens", "micro_batch", "checkpoint_steps", "num_evaluations", "peak_learning_rate", "seed"}
"""Fields of a schedule in which arms may differ: they do not change a result, or belong to the arm. Tokens are compared
as trained, rounded up to whole steps."""
_UNKNOWN = "not recorded"
_OPTIONAL = {"sub-network"}
"""Settings that some arms do not have."""

Settings = Mapping[str, object]


def mismatches(arms: Sequence[Score]) -> list[str]:
    """Return a sentence for every setting in which arms of one bin differ although one table compares them.

    Compared are the trained tokens, the schedule, the text and the validation windows of all arms of a bin, and the
    sub-network that the arms of a variant start from. A setting that only some arms recorded is a mismatch.
    """
    searched = [arm for arm in arms if arm.arm != REFERENCE]
    return [
        *_differences(arms, lambda arm: arm.bin, _common_settings),
        *_differences(searched, lambda arm: str(arm.variant), _start),
    ]


def unlike(arms: Sequence[Score], baseline: str = BASELINE) -> set[tuple[str, str, str]]:
    """Return bin, space and name of every arm that does not compare with the baseline of its variant."""
    runs = runs_by_arm(arms)
    return {key for key, own in runs.items() if mismatches([*own, *runs.get((*key[:2], baseline), [])])}


def misbooked(arms: Sequence[Score], ledger: Sequence[Cost]) -> list[str]:
    """Return a sentence for every arm of a variant whose training the ledger has with other tokens than its runs.

    That happens where a run of some nodes gathered the arms and not the ledger. Steps that an arm took over from its
    probe are in the ledger as the probe's, under the name of the arm; their share is rounded to a token.
    """
    sentences = []
    for (bin_, space, arm), runs in runs_by_arm(arms).items():
        trained = [c for c in ledger if c.stage in {"training", "probe"} and (*c.variant, c.arm) == (bin_, space, arm)]
        booked, run = sum(cost.tokens for cost in trained), sum(score.tokens for score in runs)
        if arm != REFERENCE and abs(booked - run) > len(runs):
            sentences.append(f"{bin_}: {arm} of {space} was trained on {run:,} tokens, the ledger has {booked:,}.")
    return sentences


def runs_by_arm(arms: Sequence[Score]) -> dict[tuple[str, str, str], list[Score]]:
    """Return the runs of every arm, one for every seed, by bin, space and name."""
    runs: dict[tuple[str, str, str], list[Score]] = {}
    for arm in arms:
        runs.setdefault((*arm.variant, arm.arm), []).append(arm)
    return runs


def arm_settings(arm: Score) -> dict[str, object]:
    """Return the recorded settings of a training and its measurement, for the report."""
    own = {"tokens": arm.tokens, "learning rate": arm.learning_rate, "validation": _windows(arm), "seed": arm.seed}
    return own | arm.made_with.model_dump(exclude={"heldout"})


def _common_settings(arm: Score) -> Settings:
    made = arm.made_with
    schedule = {name.replace("_", " "): value for name, value in made.schedule.items() if name not in _FREE}
    return {"training tokens": f"{arm.tokens:,}", "validation windows": _windows(arm), **schedule, "text": made.corpus}


def _start(arm: Score) -> Settings:
    # Random weights have the architecture of the sub-network, and none of its weights.
    origin = {} if arm.arm == BASELINE else {"sub-network": arm.made_with.start}
    return {"parameters": f"{arm.num_parameters:,}", **origin}


def _windows(arm: Score) -> str:
    counts = ", ".join(f"{len(losses)} of {source}" for source, losses in sorted(arm.losses.items()))
    return f"{counts}, {arm.tokens_per_sequence} tokens each"


def _differences(
    arms: Sequence[Score], group_of: Callable[[Score], str], settings: Callable[[Score], Settings]
) -> list[str]:
    groups: dict[str, list[tuple[str, Settings]]] = {}
    several = len({arm.seed for arm in arms}) > 1
    for arm in arms:
        run = f"{arm.arm} of {arm.space}" + (f", seed {arm.seed}" if several else "")
        groups.setdefault(group_of(arm), []).append((run, settings(arm)))
    sentences = []
    for group, runs in groups.items():
        for name in dict.fromkeys(name for _, own in runs for name in own):
            by_value: dict[str, list[str]] = {}
            for run, own in runs:
                if name in own or name not in _OPTIONAL:
                    by_value.setdefault(str(own.get(name, _UNKNOWN)), []).append(run)
            if len(by_value) > 1:
                values = " and ".join(f"{value} ({'; '.join(names)})" for value, names in by_value.items())
                sentences.append(f"{group}: arms differ in {name}: {values}.")
    return sentences
