"""Cuts of the quickstart's teacher, in shapes that its spaces allow, answer alike in every engine.

Real weights show what tiny random ones do not: keys of SmolLM2 are too large for llama.cpp's cache in float16.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from engines import ENGINES

from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.checkpoint import load_tokenizer, own_weights, save_checkpoint
from budwood.models.engines import GGUF, ask, is_installed
from budwood.models.gguf_export import write_gguf
from budwood.models.prompts import record_prompts, write_check
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher
from budwood.study.settings import BinSettings
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering, SpaceSettings

pytestmark = [pytest.mark.serving, pytest.mark.slow]

BASE = yaml.safe_load((Path(__file__).parents[2] / "conf/base/parameters.yml").read_text())
NUM_POSITIONS = 256


def layer(groups, queries, head_dim, neurons):
    return LayerSpec(
        num_attention_heads=groups * queries,
        num_key_value_heads=groups,
        head_dim=head_dim,
        intermediate_size=neurons,
    )


SHAPES = {
    ("half", "coarse_uniform"): (512, (layer(3, 3, 48, 1088),) * 18),
    ("quarter", "coarse_uniform"): (320, (layer(2, 3, 32, 1024),) * 16),
    ("quarter", "coarse_layerwise"): (320, tuple(layer(1 + i % 3, 3 - i % 2, 64, 768 + 64 * i) for i in range(12))),
}
"""Hidden size and layers of shapes that searches of the quickstart may end with."""


@pytest.fixture(scope="module")
def teacher(need, tmp_path_factory) -> Path:
    need(any(is_installed(engine, ENGINES) for engine in ("vllm", "llama.cpp")), f"no engine is installed in {ENGINES}")
    settings = TeacherSettings(**BASE["teacher"])
    try:
        folder = fetch_teacher(settings, tmp_path_factory.mktemp("teacher")).checkpoint.folder
    except ValueError as error:
        need(False, f"the quickstart's teacher cannot be had: {error}")  # noqa: FBT003 - what is needed is not there
        raise
    return folder


@pytest.fixture(scope="module")
def cuts(teacher: Path, tmp_path_factory) -> dict[tuple[str, str], Path]:
    folder, tokenizer = tmp_path_factory.mktemp("cuts"), load_tokenizer(teacher)
    ordered = open_ordered(teacher, Ordering(ordering="magnitude", layer_score="influence"))
    written = {}
    for (bin_name, space), (hidden_size, layers) in SHAPES.items():
        sizes = replace(ordered.architecture, hidden_size=hidden_size, layers=layers)
        child = own_weights(extract_child(ordered, Selection.prefix(sizes)))
        target = save_checkpoint(child, tokenizer, folder / f"{bin_name}-{space}")
        (longest, *_) = record_prompts(child)
        prompt = longest.model_copy(
            update={
                "input_ids": longest.input_ids[: NUM_POSITIONS + 1],
                "logprobs": longest.logprobs[:NUM_POSITIONS],
            }
        )
        write_check(target, [prompt])
        write_gguf(target, target / GGUF, "f32")
        written[bin_name, space] = target
    return written


def test_the_spaces_of_the_quickstart_have_these_shapes():
    whole = Architecture(
        family="llama",
        vocab_size=49152,
        hidden_size=576,
        tie_word_embeddings=True,
        layers=(layer(3, 3, 64, 1536),) * 30,
    )
    for (bin_name, space), (hidden_size, layers) in SHAPES.items():
        sizes = replace(whole, hidden_size=hidden_size, layers=layers)
        allowed = BinSettings(**BASE["bins"][bin_name]).parameter_bin(whole)
        assert num_parameters(sizes) in allowed, (bin_name, space, num_parameters(sizes))
        assert Selection.prefix(sizes) in SpaceSettings(**BASE["spaces"][space]).search_space(whole)


@pytest.fixture(scope="module")
def winners(tmp_path_factory) -> list[Path]:
    """Copies of what a study found, whose data folder `BUDWOOD_STUDY` names, with GGUF files beside them."""
    data = os.environ.get("BUDWOOD_STUDY")
    if data is None:
        pytest.skip("BUDWOOD_STUDY names no data folder of a finished study; `make run` makes one")
    exports = sorted(Path(data).glob("06_models/*/*/subnet"))
    assert exports, f"{data} holds no export"
    folder = tmp_path_factory.mktemp("winners")
    copies = [shutil.copytree(export, folder / "-".join(export.parts[-3:-1])) for export in exports]
    for copy in copies:
        write_gguf(copy, copy / GGUF, "f32")
    return copies


ANSWERS = pytest.mark.parametrize(("engine", "tolerance"), [("vllm", 1e-3), ("llama.cpp", 0.05)])


@ANSWERS
def test_engines_answer_alike_at_every_position(request, cuts, engine, tolerance):
    home = request.getfixturevalue(engine.replace(".", "_"))
    for variant, said in zip(cuts, ask(engine, list(cuts.values()), home).values(), strict=True):
        assert said.agrees, (variant, said)
        assert said.largest_difference < tolerance
        assert said.num_tokens == NUM_POSITIONS


@ANSWERS
def test_the_winners_of_a_study_answer_as_their_certificates_say(request, winners, engine, tolerance):
    home = request.getfixturevalue(engine.replace(".", "_"))
    for folder, said in ask(engine, winners, home).items():
        assert said.agrees, (folder.name, said)
        assert said.largest_difference < tolerance
        assert said.num_tokens > 2 * NUM_POSITIONS
