"""Old results answer only where code, weights and inputs are what they were."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from projects import copy_finished, kedro

from budwood.records.form import read_records

pytestmark = pytest.mark.slow

VARIANT = "--namespaces=subnets.quarter.coarse_uniform"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a project with all that the smoke environment has made."""
    return copy_finished(finished, tmp_path / "project")


def test_edited_code_is_run_and_does_not_answer_from_old_results(copied):
    """A loss that raises stops the training; what changes nothing is in `tests/study/test_source.py`."""
    losses = copied / "src/budwood/training/losses.py"
    before = losses.read_text()
    head, _, body = before.partition("def chunked_loss(")
    signature, _, rest = body.partition(") -> Tensor:\n")
    losses.write_text(f"{head}def chunked_loss({signature}) -> Tensor:\n    raise RuntimeError('edited')\n{rest}")
    done = kedro(copied, "run", "--env=smoke", "--pipelines=pretraining", VARIANT)
    output = done.stdout + done.stderr
    assert done.returncode != 0, output[-3000:]
    assert "Error: edited" in output
    assert "Reusing" not in output


def test_weights_of_the_teacher_that_were_edited_in_place_are_noticed(copied, tmp_path):
    """In the user's own folder, with their size unchanged."""
    folder = tmp_path / "teacher"
    shutil.copytree(copied / "data/smoke/03_primary/teacher", folder)
    file = copied / "conf/smoke/parameters.yml"
    changes = {"teacher": {"model": str(folder), "random": None}}
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(changes)), file)

    def measure() -> tuple[str, dict[str, list[float]]]:
        done = kedro(copied, "run", "--env=smoke", "--to-outputs=teacher_evaluation")
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-3000:]
        return output, read_records(copied / "data/smoke/04_feature/teacher_evaluation.json").losses

    output, losses = measure()
    assert "teacher_losses-" in output, "the same weights answer from the first study"
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in range(len(content) - 4000, len(content), 4):
        content[place + 2] ^= 0x7F
    weights.write_bytes(content)
    output, changed = measure()
    assert "Reusing" not in output
    assert changed != losses
