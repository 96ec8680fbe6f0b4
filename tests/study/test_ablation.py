"""Ablations, trained and planned."""

from pathlib import Path

import pandas as pd
import pytest
from corpora import tokenize_and_pack
from papers import H100, PAPERS, PYTHIA_69B, PYTHIA_410M, SEARCH, forecast, study

from budwood.arch.count import forward_flops_per_token, training_flops_per_token
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.records.names import Variant
from budwood.reporting.quote import markdown_plan
from budwood.study.ablation import ablation_costs, plan_ablations, train_compared
from budwood.study.comparison import Ablation, AblationTeacher, Comparison, SubnetSearch
from budwood.study.plan import plan
from budwood.study.settings import Conditions, MeasurementSettings, ProtocolSettings
from budwood.study.stage import Workspace
from budwood.study.training import Start, TrainArm
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule


def test_a_training_that_diverges_does_not_end_the_ablation(monkeypatch, tmp_path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    teacher = fetch_teacher(TeacherSettings(random=sizes), tmp_path).checkpoint
    documents = pd.DataFrame({"split": ["train", "validation"], "source": ["one"] * 2, "text": ["words", "others"]})
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=tmp_path / "tokens", progress=False)
    arm = ArmSettings(learning_rate=0.1)
    taught = arm.model_copy(update={"distillation": DistillationSettings()})
    conditions = Conditions(
        measurement=MeasurementSettings(length=4, calibration=1, selection=1, choice=1, validation=1, heldout=1),
        protocol=ProtocolSettings(),
        schedule=Schedule(tokens=4, sequence_length=4, global_batch=1, micro_batch=1),
        arms=Arms(random_init=arm, subnet_init=arm, reference_init=arm, distilled=taught),
        engine=Engine(),
    )

    def diverge(*_: object, **__: object) -> None:
        raise FloatingPointError("arm x: the training loss is nan")

    monkeypatch.setattr(TrainArm, "run", diverge)
    variant = Variant("half", "one")
    compared = Comparison("one", SubnetSearch(variant, variant), {"space": "one"}, arm)
    stage = TrainArm.of("0", Start(initialisation="checkpoint", checkpoint=teacher), (teacher, tokens), conditions, arm)
    ran = train_compared(compared, stage, conditions, Workspace(folder=tmp_path / "work"))
    assert ran.curve.empty
    assert (ran.status, ran.losses, ran.tokens) == ("its training diverged", (), 0)


@pytest.mark.parametrize("compare", ["plain", "corrected"])
def test_an_ablation_by_hand(compare) -> None:
    """One search, and three trainings of 4,624 steps: under no teacher, under the whole one and under a sub-network."""
    space, tokens = SpaceSettings(layerwise=False, compensation=Compensation()), 4624 * 1056 * 2048
    own = forecast(compensation=space.compensation, moments=space.moments)
    whole = study(forecasts=(own,), search=SEARCH.model_copy(update={"compare": compare}))
    search, arm = SubnetSearch(own.variant, own.variant), ArmSettings()
    taught, part = ArmSettings(distillation=DistillationSettings()), AblationTeacher(subnet=own.variant._asdict())
    compared = (
        Comparison("alone", search, {}, arm),
        Comparison("whole", search, {}, taught),
        Comparison("part", search, {}, taught, part),
    )
    ablation = Ablation(name="teacher", bin="small", title="", about="", comparisons=compared)
    spent = ablation_costs(ablation, PAPERS.tokens, whole, {own.variant: own}, Path())
    costs = plan_ablations([(ablation, spent)], H100, 0.4)
    (found,) = costs.to_dict("records")
    planned = plan(whole, H100, 0.4)
    searched = planned.loc[planned["stage"].isin(["search", "compensation"]), "flops"].sum()
    assert found["search_flops"] == pytest.approx(searched)
    assert found["training_flops"] == 3 * tokens * training_flops_per_token(PYTHIA_410M, context=2048)
    teachers = [forward_flops_per_token(each, context=2048) for each in (PYTHIA_69B, PYTHIA_410M)]
    assert found["teacher_flops"] == tokens * sum(teachers)
    total = found["search_flops"] + found["training_flops"] + found["teacher_flops"]
    assert found["device_hours"] == pytest.approx(total / 989e12 / 0.4 / 3600)
    page = markdown_plan(planned, ("h100", 8), "at 40% of its peak", [], costs)
    assert "## Ablations, each run by name" in page
    assert "| `ablation_teacher` | small | 1 | 3 |" in " ".join(page.split())
    assert "Ablations" not in markdown_plan(planned, ("h100", 8), "at 40% of its peak", [])
