"""A candidate's i-th layer takes the teacher's i-th layer of the ranking; the child stands in depth order."""

from dataclasses import replace

from budwood.arch.spec import LayerSpec
from budwood.subnet.selection import select_prefixes

FIRST = LayerSpec(num_attention_heads=2, num_key_value_heads=1, head_dim=4, intermediate_size=7)
SECOND = LayerSpec(num_attention_heads=3, num_key_value_heads=3, head_dim=6, intermediate_size=9)
QK_DIMS = ((), (1, 9), (1, 5, 9, 13), (1, 5, 6, 9, 13, 14))


def test_layers_take_their_teacher_layer_by_rank_and_stand_by_depth(architecture):
    candidate = replace(architecture, hidden_size=20, layers=(FIRST, SECOND))
    selection = select_prefixes(candidate, layer_ranking=(2, 0, 3, 1), qk_dims=QK_DIMS)
    assert [layer.teacher_layer for layer in selection.layers] == [0, 2]
    assert selection.layer_specs == (SECOND, FIRST)
    assert selection.hidden == range(20)


def test_a_head_keeps_its_ranked_pairs_and_the_first_of_everything_else(architecture):
    candidate = replace(architecture, layers=(SECOND,))
    (layer,) = select_prefixes(candidate, layer_ranking=(3, 0, 1, 2), qk_dims=QK_DIMS).layers
    assert layer.teacher_layer == 3
    assert layer.qk == (1, 5, 6, 9, 13, 14)
    assert (layer.group, layer.query, layer.value, layer.neuron) == (range(3), range(1), range(6), range(9))
