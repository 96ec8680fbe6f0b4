"""A worker opens its evaluator, or says in a sentence why it cannot."""

import socket
from dataclasses import replace

import pytest
import torch

from budwood.search.settings import SearchSettings
from budwood.study.evaluators import EvaluatorSource
from budwood.subnet.settings import SpaceSettings


def test_a_worker_node_without_the_data_folder_says_so(materials, tmp_path):
    missing = replace(materials.teacher, folder=tmp_path / "elsewhere")
    source = EvaluatorSource(
        teacher=missing,
        importance={},
        windows=torch.zeros(1, 9, dtype=torch.int64),
        space=SpaceSettings(layerwise=False, ordering="native"),
        search=SearchSettings(),
        compute=materials.compute,
        batch_size=1,
    )
    with pytest.raises(
        ValueError, match=f"search.workers: .*elsewhere is not on {socket.gethostname()}: every node needs"
    ):
        source.open()
