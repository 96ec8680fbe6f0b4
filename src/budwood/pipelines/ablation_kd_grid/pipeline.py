"""One sub-network distilled with all combinations of settings -> table, importances, figure, page."""

from pathlib import Path

from kedro.pipeline import Pipeline

from budwood.parameters import AblationParameters, ArmParameters, changed_arm
from budwood.pipelines.ablations import Ablation, Variant, prepared, subnet_of, where_wanted

SETTINGS = ("alpha", "temperature", "top_k")


@where_wanted
def create_pipeline(ablations: AblationParameters) -> Pipeline:
    """Distill one student with every combination of alpha, temperature and top k (paper, appendix G and table 15)."""
    ablation = Ablation(
        name="kd_grid",
        title="Settings of distillation",
        about="One sub-network, distilled on the same tokens with every combination; beta is 1 - alpha.",
        arm="distilled",
        subnets={"student": subnet_of(ablations.student)},
        choose=_by_settings,
        settings=SETTINGS,
    )
    return prepared([ablations.student]) + ablation.pipeline()


def _by_settings(ablations: AblationParameters, arm: ArmParameters, subnets: dict[str, Path]) -> dict[str, Variant]:
    return {
        name: Variant(
            folder=subnets["student"],
            arm=changed_arm(arm, changes),
            settings={setting: changes.get(setting) for setting in SETTINGS},
        )
        for name, changes in ablations.kd_grid.combinations().items()
    }
