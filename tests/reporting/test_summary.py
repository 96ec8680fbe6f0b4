"""The beginning of the report: what to take home, and why to believe it."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from reports import section

from budwood.records.cost import STAGES, Cost
from budwood.reporting.summary import _PARTS


def test_every_bin_says_what_to_take_and_how_to_load_it(make_study: Callable) -> None:
    """The layer-wise arms are made best: they need code of their own, and an engine that was tested."""
    study = make_study(3)
    for arm in study.arms[3:6]:
        arm["losses"] = {s: [x - 9 for x in xs] for s, xs in arm["losses"].items()}
        arm["engines"] = ["transformers", "vLLM"]
    quarter, half = section(study.findings, "Models to take").split("### half")
    folder = "data/06_models/quarter/coarse_layerwise/distilled"
    assert f"- Folder, inside the project: `{folder}`\n- Opens in: transformers, vLLM\n- Its" in quarter
    assert (
        f"folder = '{folder}'\nmodel = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)" in quarter
    )
    assert "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)" in quarter, "else it asks, and waits"
    assert quarter.count("\n| ") - 1 == 1 + 6
    assert "from_pretrained(folder)\n" in half
    assert half.count("\n| ") - 1 == 1 + 3
    findings = study.findings
    findings.certificates["vllm"] = "not tried: its kernels take heads of these dimensions"
    opens = "- Opens in: transformers; not tried in vllm, see [Opens in](#opens-in)\n"
    assert opens in section(findings, "Models to take").split("### half")[1]
    compile(re.findall("```python\n(.*?)```", half, re.DOTALL)[0], "report", "exec")


def test_losses_of_winners_that_were_trained_for_the_choice_are_called_so(make_study: Callable) -> None:
    findings = make_study(2).findings
    searched = section(findings, "What was searched")
    assert "Losses are those of the exported winner before training, on text" in searched
    assert "trained on" not in searched
    trained = [
        winner.model_copy(update={"finalist_tokens": tokens})
        for winner, tokens in zip(findings.winners, (0, 2_000_000), strict=True)
    ]
    searched = section(replace(findings, winners=trained), "What was searched")
    assert "before training" not in searched
    assert "after the brief training that finalists had before the choice" in searched
    assert "| trained on, tokens | loss (nats) |" in searched
    assert "| 0 | 5.500 " in searched
    assert "| 2.000M | 5.500 " in searched


def test_an_arm_without_a_folder_or_a_finite_loss_is_not_offered(make_study: Callable) -> None:
    study = make_study(1)
    for arm in study.arms:
        del arm["folder"]
    assert "from_pretrained" not in section(study.findings, "Models to take")
    for arm in study.arms:
        arm["losses"] = {s: [np.nan] * len(xs) for s, xs in arm["losses"].items()}
    assert "No arm has a finite loss." in section(study.findings, "Models to take")


def test_a_difference_within_the_noise_is_called_so(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x - 0.01 + (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    assert "`subnet_init` is undecided in 1 of 1" in section(study.findings, "Why to believe it")
    models = section(study.findings, "Models to take")
    assert "(within the noise)." in models
    assert not re.search(r"\| (lower|higher)", models)


def test_a_baseline_that_wins_within_the_noise_proves_nothing(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x + 0.01 + (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    models = section(study.findings, "Models to take")
    assert "Lowest loss: `random_init` of coarse_uniform" in models
    assert "did not help" not in models


def test_a_winning_baseline_is_named(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x + 1 + 0.1 * (i % 2) for i, x in enumerate(xs)] for s, xs in base.items()}
    models = section(study.findings, "Models to take")
    assert "Lowest loss: `random_init` of coarse_uniform" in models
    assert "below `subnet_init` (beyond the noise)" in models
    assert "The sub-network did not help" in models
    assert models.count("| higher, beyond the noise |") == 2
    assert "`subnet_init` is higher in 1 of 1" in section(study.findings, "Why to believe it")


def test_the_lowest_is_compared_with_the_best_of_all_spaces_of_its_bin(make_study: Callable) -> None:
    """Far below all arms of its own space, but as good as one of the other space."""
    study = make_study(2)
    base = study.arms[0]["losses"]
    shifts = {(0, "subnet_init"): 2.0, (1, "distilled"): 1.99}
    for place, arm in enumerate(study.arms):
        shift = shifts.get((place // 3, arm["arm"]), 0.0)
        arm["losses"] = {
            name: [loss - shift + 0.1 * (-1) ** (i + place // 3) for i, loss in enumerate(own)]
            for name, own in base.items()
        }
    models = section(study.findings, "Models to take")
    assert "Lowest loss: `subnet_init` of coarse_uniform" in models
    assert "below `distilled` of coarse_layerwise (within the noise)." in models
    assert "The lowest of 6 losses on the same text is a little too low on average." in models


def test_random_weights_of_one_space_beat_all_sub_networks_of_a_bin_or_none(make_study: Callable) -> None:
    study = make_study(2)
    base = study.arms[0]["losses"]
    for place, arm in enumerate(study.arms):
        shift = 0.0 if place == 0 else 1.0
        arm["losses"] = {
            name: [loss + shift + 0.1 * (i % 2) for i, loss in enumerate(own)] for name, own in base.items()
        }
    assert "The sub-network did not help" in section(study.findings, "Models to take")
    study.arms[5]["losses"] = study.arms[0]["losses"]
    assert "did not help" not in section(study.findings, "Models to take")


def test_the_reference_is_no_rival_of_itself(make_study: Callable) -> None:
    """All spaces of a bin have the same one."""
    study = make_study(2)
    shared = {"arm": "reference_init", "run": "reference_init"}
    lowest = {name: [loss - 9 for loss in own] for name, own in study.arms[0]["losses"].items()}
    for place in (3, 7):
        study.arms.insert(place, study.arms[place - 1] | shared | {"losses": lowest})
    models = section(study.findings, "Models to take")
    assert "Lowest loss: `reference_init`" in models
    assert re.search(r"below `\w+` of coarse_\w+ \(beyond the noise\)", models)
    assert "The lowest of 7 losses " in models


def test_every_stage_is_counted_for_what_it_is(make_study: Callable) -> None:
    spent = {"search": 10.0, "training": 50.0, "sweep": 27.0, "probe": 10.0, "gate": 1.0, "evaluation": 2.0}
    ledger = [Cost(stage=stage, flops=flops, tokens=1) for stage, flops in spent.items()]
    told = section(replace(make_study(1).findings, ledger=ledger), "What it cost")
    assert told.startswith(
        "Total: 100 FLOP, over all variants and arms: 10% for calibration, elimination, search and compensation, 38% "
        "for probes, trials of learning rates and sanity gates, 50% for training with its teacher, 2% for measuring "
        "and certificates. A stage"
    )
    named = [stage for stages in _PARTS.values() for stage in stages]
    assert sorted(named) == sorted(STAGES)
