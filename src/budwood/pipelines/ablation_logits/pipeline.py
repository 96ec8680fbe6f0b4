"""One sub-network distilled from several parts of the teacher's distribution -> table, figure, page."""

from pathlib import Path

from kedro.pipeline import Pipeline

from budwood.parameters import AblationParameters, ArmParameters, changed_arm
from budwood.pipelines.ablations import Ablation, Variant, prepared, subnet_of, where_wanted


@where_wanted
def create_pipeline(ablations: AblationParameters) -> Pipeline:
    """Distill one student from all logits, the top of them, or draws (paper, section 5 and figure 7)."""
    ablation = Ablation(
        name="logits",
        title="Logits of the teacher",
        about="One sub-network, distilled on the same tokens from the whole distribution of its teacher or from parts.",
        arm="distilled",
        subnets={"student": subnet_of(ablations.student)},
        choose=_by_logits,
    )
    return prepared([ablations.student]) + ablation.pipeline()


def _by_logits(ablations: AblationParameters, arm: ArmParameters, subnets: dict[str, Path]) -> dict[str, Variant]:
    return {
        name: Variant(folder=subnets["student"], arm=changed_arm(arm, changes), settings={"logits": name})
        for name, changes in ablations.logits.items()
    }
