"""Train under the teacher."""

from budwood.pipelines.arms import arm_node

train_distilled = arm_node(
    "distilled",
    "subnet",
    "Train the sub-network towards the teacher's distribution and the text.",
)
