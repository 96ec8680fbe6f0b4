"""Sub-networks of every space of one bin, each trained alike -> table, figure, page."""

from pathlib import Path

from kedro.pipeline import Pipeline

from budwood.parameters import AblationParameters, ArmParameters, Place
from budwood.pipelines.ablations import Ablation, Variant, prepared, subnet_of, where_wanted


@where_wanted
def create_pipeline(ablations: AblationParameters) -> Pipeline:
    """Search every space of the student's bin and train what was found (paper, section 5 and figure 6)."""
    places = {space: Place(bin=ablations.student.bin, space=space) for space in ablations.spaces}
    ablation = Ablation(
        name="spaces",
        title="Search spaces",
        about=f"The sub-network of every space in the bin `{ablations.student.bin}`, trained on the same tokens.",
        arm="subnet_init",
        subnets={space: subnet_of(place) for space, place in places.items()},
        choose=_by_space,
    )
    return prepared(list(places.values())) + ablation.pipeline()


def _by_space(ablations: AblationParameters, arm: ArmParameters, subnets: dict[str, Path]) -> dict[str, Variant]:
    return {space: Variant(folder=subnets[space], arm=arm, settings={"space": space}) for space in ablations.spaces}
