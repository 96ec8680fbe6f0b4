"""Whether arms were trained and measured alike, so that their losses compare."""

from collections.abc import Callable, Mapping, Sequence

from budwood.reporting.records import BASELINE, REFERENCE, Arm, variant_name

_FREE = {"preset", "tokens", "micro_batch", "checkpoint_steps", "num_evaluations", "peak_learning_rate", "seed"}
"""Fields of a schedule in which arms may differ: they do not change a result, or belong to the arm. Tokens are compared
as trained, rounded up to whole steps."""
_UNKNOWN = "not recorded"

Settings = Mapping[str, object]


def mismatches(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence for every setting in which arms of one bin differ although one table compares them.

    Compared are the trained tokens, the schedule, the text and the validation windows of all arms of a bin, and the
    sub-network that the arms of a variant start from. A setting that only some arms recorded is a mismatch.
    """
    searched = [arm for arm in arms if arm["arm"] != REFERENCE]
    return [
        *_differences(arms, lambda arm: arm["bin"], _common_settings),
        *_differences(searched, lambda arm: variant_name(arm["bin"], arm["space"]), _start),
    ]


def unlike(arms: Sequence[Arm], baseline: str = BASELINE) -> set[tuple[str, str, str]]:
    """Return bin, space and name of every arm that does not compare with the baseline of its variant."""
    runs: dict[tuple[str, str, str], list[Arm]] = {}
    for arm in arms:
        runs.setdefault((arm["bin"], arm["space"], arm["arm"]), []).append(arm)
    return {key for key, own in runs.items() if mismatches([*own, *runs.get((*key[:2], baseline), [])])}


def arm_settings(arm: Arm) -> dict[str, object]:
    """Return the recorded settings of a training and its measurement, for the report."""
    recorded = {
        "text": arm.get("corpus_fingerprint"),
        "sub-network": arm.get("subnet_fingerprint"),
        "code": arm.get("code"),
        "seed": arm.get("seed"),
        "schedule": arm.get("schedule"),
    }
    known = {name: value for name, value in recorded.items() if value is not None}
    return {"tokens": arm["tokens"], "learning rate": arm["learning_rate"], "validation": _windows(arm), **known}


def _common_settings(arm: Arm) -> Settings:
    fields = {name.replace("_", " "): value for name, value in arm.get("schedule", {}).items() if name not in _FREE}
    text = {"text": arm["corpus_fingerprint"]} if "corpus_fingerprint" in arm else {}
    return {"training tokens": f"{arm['tokens']:,}", "validation windows": _windows(arm), **fields, **text}


def _start(arm: Arm) -> Settings:
    return {"sub-network": arm["subnet_fingerprint"]} if "subnet_fingerprint" in arm else {}


def _windows(arm: Arm) -> str:
    counts = ", ".join(f"{len(losses)} of {source}" for source, losses in sorted(arm["losses"].items()))
    return f"{counts}, {arm.get('tokens_per_sequence', _UNKNOWN)} tokens each"


def _differences(arms: Sequence[Arm], group_of: Callable[[Arm], str], settings: Callable[[Arm], Settings]) -> list[str]:
    groups: dict[str, list[tuple[str, Settings]]] = {}
    several = len({arm.get("seed") for arm in arms}) > 1
    for arm in arms:
        run = f"{arm['arm']} of {arm['space']}" + (f", seed {arm['seed']}" if several and "seed" in arm else "")
        groups.setdefault(group_of(arm), []).append((run, settings(arm)))
    sentences = []
    for group, runs in groups.items():
        for name in dict.fromkeys(name for _, own in runs for name in own):
            by_value: dict[str, list[str]] = {}
            for run, own in runs:
                by_value.setdefault(str(own.get(name, _UNKNOWN)), []).append(run)
            if len(by_value) > 1:
                values = " and ".join(f"{value} ({'; '.join(names)})" for value, names in by_value.items())
                sentences.append(f"{group}: arms differ in {name}: {values}.")
    return sentences
