"""What ablations compare, by their settings."""

import pytest

from budwood.records.names import Variant
from budwood.study.comparison import NAMES, AblationSettings, DistillationGrid, SubnetSearch, ablations_of
from budwood.training.settings import Arms, ArmSettings, DistillationSettings


def test_a_grid_is_every_combination() -> None:
    combinations = DistillationGrid(alpha=(0.2, 0.0), temperature=(0.9,), top_k=(16, None)).combinations()
    assert list(combinations) == [
        *("alpha 0.2, T 0.9, k 16", "alpha 0.2, T 0.9, k all", "alpha 0, T 0.9, k 16", "alpha 0, T 0.9, k all")
    ]
    assert combinations["alpha 0.2, T 0.9, k 16"] == {
        "alpha": 0.2,
        "beta": 0.8,
        "temperature": 0.9,
        "loss": "topk_renorm",
        "top_k": 16,
    }
    # Appendix G of the paper: three values of alpha, two of T, three of k.
    assert len(DistillationGrid(temperature=(0.8, 0.9)).combinations()) == 18


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"alpha": (1.5,)}, "shares between 0 and 1"), ({"top_k": ()}, "at least one value"), ({"alpha": (0, 0)}, "once")],
)
def test_a_grid_without_sense_is_refused(values, expected) -> None:
    with pytest.raises(ValueError, match=expected):
        DistillationGrid(**values)


def test_what_an_ablation_changes_is_checked() -> None:
    arm = ArmSettings(distillation=DistillationSettings(loss="sampled", teacher="cached"))
    changed = arm.with_distillation({"loss": "full"})
    assert (changed.distillation.loss, changed.distillation.teacher) == ("full", "live")
    with pytest.raises(ValueError, match="lossy: there is no such setting; did you mean loss"):
        arm.with_distillation({"lossy": "full"})


def test_an_ablation_needs_the_searches_of_what_is_trained_and_of_what_teaches() -> None:
    """Every metric searches one space by itself; several things that begin with one sub-network need it once."""
    plain = ArmSettings(learning_rate=0.1)
    taught = plain.model_copy(update={"distillation": DistillationSettings()})
    arms = Arms(random_init=plain, subnet_init=plain, reference_init=plain, distilled=taught)
    settings = AblationSettings(
        tokens=8,
        students={"half": "one", "most": "two"},
        spaces=("one", "two"),
        metrics=("perplexity", "importance"),
        metric_space="two",
        logits={"all": {"loss": "full"}, "draws": {"loss": "sampled"}},
        teachers={"own": {}, "part": {"subnet": {"bin": "most", "space": "one"}}},
    )
    found = {(each.name, each.bin): each for each in ablations_of(settings, {"half": arms, "most": arms})}
    assert list(found) == [(name, bin_name) for name in NAMES for bin_name in ("half", "most")]
    one, two, part = (Variant(*names) for names in (("half", "one"), ("half", "two"), ("most", "one")))
    assert {name: found[name, "half"].searches for name in NAMES} == {
        "spaces": (SubnetSearch(one, one), SubnetSearch(two, two)),
        "metric": tuple(SubnetSearch(Variant("half", f"by_{each}"), two, each) for each in settings.metrics),
        "logits": (SubnetSearch(one, one),),
        "teacher": (SubnetSearch(one, one), SubnetSearch(part, part)),
        "kd_grid": (SubnetSearch(one, one),),
    }
    assert [each.arm.distillation is None for each in found["metric", "most"].comparisons] == [True, True]
    assert [each.arm.distillation.loss for each in found["logits", "most"].comparisons] == ["full", "sampled"]
    assert len(found["kd_grid", "half"].comparisons) == 27
    assert "space `two` of the bin `half`" in found["metric", "half"].about
