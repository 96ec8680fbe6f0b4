"""Pretrain with the plain language-modelling loss."""

from budwood.pipelines.arms import arm_node

train_random_init = arm_node(
    "random_init", "random", "Train the sub-network's architecture from its family's own initialisation."
)
train_subnet_init = arm_node("subnet_init", "subnet", "Train the sub-network from the weights it was cut with.")
