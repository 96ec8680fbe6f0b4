"""Ablations: their parameters, and all five pipelines by name on the tiny teacher."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from corpora import tokenize_and_pack
from omegaconf import OmegaConf
from projects import copy_finished, kedro

from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.parameters.ablations import DistillationGrid
from budwood.pipelines.ablations.comparison import NAMES
from budwood.study.ablation import train_compared
from budwood.study.settings import Conditions, MeasurementSettings, ProtocolSettings
from budwood.study.stage import Workspace
from budwood.study.training import Start, TrainArm
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule

CHANGES = """
grid: {half: [coarse_uniform], quarter: null}
bins: {half: {schedule: {warmup_steps: 2}, arms: {distilled: {micro_batch: 1}}}, most: {fraction: 0.75}}
ablations:
  tokens: 768
  students: {half: coarse_uniform, most: coarse_uniform}
  spaces: [coarse_uniform, fine_layerwise]
  metrics: [perplexity, importance, magnitude]
  metric_space: paper_coarse_uniform
  logits: {all: {loss: full}, top: {loss: topk_renorm, top_k: 16}}
  teachers:
    whole: {}
    part: {subnet: {bin: half, space: fine_layerwise}}
    other: {source: {random: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2}}}
  kd_grid: {alpha: [0.2, 0.0], temperature: [1.0], top_k: [16, null]}
"""


BINS = ("half", "most")


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
    stage = TrainArm.of("0", Start(initialisation="checkpoint", checkpoint=teacher), (teacher, tokens), conditions, arm)
    ran = train_compared("one", {"space": "one"}, stage, conditions, Workspace(folder=tmp_path / "work"))
    assert ran.curve.empty
    assert (ran.status, ran.losses, ran.tokens) == ("its training diverged", (), 0)


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the pages of all ablations are, after a run that took up what the smoke environment had found."""
    project = copy_finished(finished, tmp_path_factory.mktemp("compared") / "project", "02_intermediate")
    file = project / "conf/smoke/parameters.yml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(CHANGES)), file)
    done = kedro(project, "run", "--env=smoke", f"--pipelines={','.join(f'ablation_{name}' for name in NAMES)}")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return project / "data/smoke/08_reporting/ablations"


@pytest.mark.slow
def test_every_ablation_ends_in_a_table_a_figure_and_a_page(compared):
    variants = {
        "spaces": ["coarse_uniform", "fine_layerwise"],
        "metric": ["perplexity", "importance", "magnitude"],
        "logits": ["all", "top"],
        "teacher": ["whole", "part", "other"],
    }
    for folder, name in product((compared / bin_name for bin_name in BINS), NAMES):
        table = pd.read_parquet(folder / f"{name}.parquet")
        assert table["loss"].notna().all(), name
        assert set(table["tokens"]) == {768}
        assert table["difference"].isna().sum() == 1
        assert table["variant"].tolist() == variants.get(name, table["variant"].tolist())
        assert "Lowest validation loss" in (folder / f"{name}.md").read_text()
        assert all((folder / f"{name}{end}.json").stat().st_size > 0 for end in ("", "_curves"))
        curves = pd.read_parquet(folder / f"{name}_curves.parquet")
        assert set(curves["variant"]) == set(table["variant"])
        assert curves.groupby("variant")["heldout_loss"].count().min() >= 2
    folder = compared / "half"
    teachers = pd.read_parquet(folder / "teacher.parquet").set_index("variant")["teacher_flops"]
    assert teachers["whole"] > teachers["part"] > teachers["other"] > 0
    # All variants of a distillation but the teacher's have one student.
    sizes = [set(pd.read_parquet(compared / bin_name / "logits.parquet")["num_parameters"]) for bin_name in BINS]
    assert [len(each) for each in sizes] == [1, 1]
    assert max(sizes[0]) < min(sizes[1])


@pytest.mark.slow
def test_the_grid_tells_how_much_each_setting_matters(compared):
    grid = pd.read_parquet(compared / "half/kd_grid.parquet")
    assert len(grid) == 4
    assert grid["top_k"].isna().sum() == 2
    importances = pd.read_parquet(compared / "half/kd_grid_importances.parquet").set_index("setting")
    assert importances["importance"].sum() == pytest.approx(1.0)
    assert importances.loc["temperature", "importance"] == 0
    assert "Importance of the settings" in (compared / "half/kd_grid.md").read_text()
