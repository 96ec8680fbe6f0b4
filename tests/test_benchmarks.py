"""Benchmarks start, and those that search and train run to their end on a teacher of nothing."""

import ast
import contextlib
import encodings
import json
import runpy
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import FOLDER, beside_scripts, small_quickstart
from teachers import tiny_teacher
from words import train_tokenizer

import budwood
from budwood.models.checkpoint import save_checkpoint
from budwood.training import objectives

PEERS = {"litgpt_train", "peers_cut", "whittle_activate", "whittle_kd", "whittle_search"}
"""Run in environments of their own."""
SHARED = {"__init__", "jobs", "peers", "quickstart"}
SCRIPTS = sorted({file.stem for file in FOLDER.glob("*.py")} - PEERS - SHARED)

TEACHER = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
SMALL_SHAPE = (32, 3, 16, 48, 3)


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    with beside_scripts(monkeypatch):
        yield


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_start(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(PEERS))
def test_scripts_of_peers_import_nothing_of_budwood(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in imported if module and module.startswith("budwood")]


@pytest.fixture
def small(monkeypatch):
    """Put a random teacher and short text in place of the quickstart's."""
    import cuts

    small_quickstart(monkeypatch, TEACHER)
    # To compile the loss takes longer than these runs.
    monkeypatch.setattr(objectives, "inductor_works", lambda _: False)
    monkeypatch.setattr(cuts, "HALF", cuts.ParameterBin(40_000, 60_000))


def last_line(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


@pytest.mark.slow
def test_an_accelerator_is_measured_in_small(monkeypatch, capsys):
    """On a CPU all of it runs but the memory, which torch does not count there, and what needs a known peak."""
    import gpu

    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device=cpu", "--small"])
    gpu.main()
    found = last_line(capsys.readouterr().out)
    missing = {name for name in gpu.FIGURES if found[name] is None}
    assert missing == set(found["reasons"]) == {"mfu_0_4b", "mfu_1b", "memory_over_plan", "litgpt_ratio"}
    assert found["reasons"]["litgpt_ratio"] == "ValueError: litgpt is not installed"
    assert "the peak of cpu" in found["reasons"]["mfu_1b"]
    assert min(found[name] for name in set(gpu.FIGURES) - missing) > 0


def test_a_figure_that_hangs_is_null_and_takes_no_other_with_it(monkeypatch):
    import gpu

    def hang(_: object) -> float:
        with contextlib.suppress(TimeoutError):  # as a library may
            time.sleep(600)
        time.sleep(600)
        return 1.0

    def briefly(seconds: float) -> contextlib.AbstractContextManager[None]:
        given.append(seconds)
        return limited(0.1)

    given, limited, timer = [], gpu.limited, signal.setitimer
    monkeypatch.setattr(gpu.signal, "setitimer", lambda kind, first, _=0: timer(kind, first, 0.02))
    monkeypatch.setattr(gpu, "limited", briefly)
    monkeypatch.setattr(gpu, "MEASURES", {"mfu_1b": hang, "mfu_0_4b": lambda _: 0.4})
    found = gpu.Found(about={})
    gpu.measure(None, 8.0, found)
    assert {name: value for name, value in found.figures.items() if value} == {"mfu_0_4b": 0.4}
    assert found.reasons == {"mfu_1b": "TimeoutError: not done after 0.1 s, its limit"}
    assert given == [240, 240]  # seconds: half of the time
    late = gpu.Found(about={})
    gpu.measure(None, 0.0, late)
    assert late.reasons == dict.fromkeys(("mfu_1b", "mfu_0_4b"), "no time was left")


def test_what_there_is_is_printed_when_all_time_is_over(monkeypatch, capsys):
    import gpu

    ended: list[int] = []
    monkeypatch.setattr(gpu.os, "_exit", ended.append)
    found = gpu.Found(about={"device": "one"}, reasons={"mfu_1b": "ValueError: no peak"})
    found.figures["mfu_0_4b"] = 0.4
    gpu.give_up(found)
    line = last_line(capsys.readouterr().out)
    assert (line["mfu_0_4b"], line["litgpt_ratio"], line["device"], ended) == (0.4, None, "one", [0])
    assert line["reasons"] == dict.fromkeys(set(gpu.FIGURES) - {"mfu_0_4b"}, "no time was left") | {
        "mfu_1b": "ValueError: no peak"
    }


@pytest.mark.slow
def test_memory_is_measured_in_small(monkeypatch, capsys):
    import memory

    sizes = ["--num-layers=2", "--hidden-size=128", "--num-sequences=2", "--length=16"]
    monkeypatch.setattr(memory, "VOCAB", 300)
    monkeypatch.setattr(sys, "argv", ["memory.py", "--compensated", *sizes])
    memory.main()
    found = last_line(capsys.readouterr().out)
    # This teacher is smaller than the tiny one, above which seconds are counted.
    spent = found.pop("cpu_seconds"), found.pop("seconds_over_plan")
    assert spent[0] < 0
    assert {"peak_over_layer", "peak_over_plan", "peak_bytes", "seconds"} < set(found)
    assert min(found.values()) > 0


@pytest.mark.slow
def test_precisions_are_compared_in_small(monkeypatch, capsys):
    import precision

    monkeypatch.setattr(sys, "argv", ["precision.py", "--small", "--num-rounds=1"])
    precision.main()
    found = last_line(capsys.readouterr().out)
    assert found.pop("auto") in {"float32", "bfloat16"}
    assert set(found) == {f"{name}_{of}" for name in ("product", "forward", "step") for of in ("ratio", "seconds")}
    assert min(found.values()) > 0


def test_activation_is_timed_in_small(monkeypatch, capsys):
    import activate

    shapes = [{**TEACHER, "num_hidden_layers": depth, "intermediate_size": 48} for depth in (2, 4)]
    peer = {"teacher": TEACHER | {"vocab_size": 300}, "subnets": shapes}
    monkeypatch.setattr(activate, "make_environment", lambda *_: "python")
    monkeypatch.setattr(
        activate, "run_script", lambda *_: peer | {f"{step}_cpu_seconds": [1.0, 1.0] for step in ("extract", "forward")}
    )
    monkeypatch.setattr(activate, "NUM_COUNTS", 100)
    monkeypatch.setattr(activate, "READ", (2, 16))
    monkeypatch.setattr(sys, "argv", ["activate.py", "--num-repeats=5"])
    activate.main()
    found = last_line(capsys.readouterr().out)
    assert found["corrected_ratio"] > found["corrected_reading_ratio"] > 1
    assert found["corrected_ms"] > found["activate_ms"] > 0
    assert min(found.values()) > 0


@pytest.mark.slow
def test_an_intake_is_measured_in_small(monkeypatch, capsys):
    import memory

    monkeypatch.setattr(memory, "VOCAB", 300)
    monkeypatch.setattr(sys, "argv", ["memory.py", "--intake", "--num-layers=2", "--hidden-size=128"])
    memory.main()
    found = last_line(capsys.readouterr().out)
    assert {"peak_over_plan", "peak_bytes", "teacher_bytes"} < set(found)
    assert found["peak_over_plan"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_times_are_predicted_in_small(monkeypatch, capsys, tmp_path):
    import predict

    monkeypatch.setattr(predict, "SHAPES", (SMALL_SHAPE,))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--prompt-tokens=16", f"--cache-dir={tmp_path}"])
    predict.main()
    found = last_line(capsys.readouterr().out)
    assert set(found) == {"4 layers x 48", "3 layers x 32", "largest_error", "largest_fitted_error"}
    assert found["3 layers x 32"].keys() == {"token", "prompt"}
    assert all(ratio > 0 for ratio in found["3 layers x 32"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_search_compares_what_was_found(monkeypatch, capsys, tmp_path):
    import search

    few = {"population": 4, "epochs": 1, "num_elites": 2, "num_mutants": 2, "num_crossovers": 1, "num_randoms": 1}
    schedule = {"tokens": 256, "sequence_length": 32, "global_batch": 4, "micro_batch": 4}
    monkeypatch.setattr(search, "OURS", search.OURS.model_copy(update={**few, "stages": (2,), "finalist_tokens": 128}))
    monkeypatch.setattr(search, "NUM_REFIT", 5)
    monkeypatch.setattr(search, "UNTRAINED", search.OURS.model_copy(update={"finalist_tokens": 0}))
    monkeypatch.setattr(search, "PAPER", search.PAPER.model_copy(update=few))
    monkeypatch.setattr(search, "SCHEDULE", budwood.Schedule(**schedule))
    monkeypatch.setattr(
        sys,
        "argv",
        ["search.py", "--seeds=0", "--arms", "ours", "untrained", "random", "paper", f"--cache-dir={tmp_path}"],
    )
    search.main()
    found = last_line(capsys.readouterr().out)
    assert set(found) == {"ours_nats", "untrained_nats", "random_nats", "paper_nats", "flops_ratio_to_paper"}
    assert min(losses[0] for name, losses in found.items() if name.endswith("_nats")) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_study_trains_every_start(monkeypatch, capsys, tmp_path):
    import study

    bins = study.ParameterBin(1, 10**6)
    few = {name: loss.model_copy(update={"top_k": 16}) for name, loss in study.LOSSES.items()}
    monkeypatch.setattr(study, "LOSSES", few)
    monkeypatch.setattr(study, "SHAPES", {"quarter": (SMALL_SHAPE, bins), "half": (SMALL_SHAPE, bins)})
    monkeypatch.setattr(study, "LONG", 2)
    monkeypatch.setattr(study, "NUM_CURVE", 1)
    monkeypatch.setattr(study, "NUM_HELDOUT", 2)
    monkeypatch.setattr(study, "NUM_CHOICE", 2)
    few = {"population": 3, "num_balanced": 1, "epochs": 1, "num_elites": 2, "num_mutants": 1, "num_crossovers": 1}
    monkeypatch.setattr(study, "UNTRAINED", study.UNTRAINED.model_copy(update=few))
    monkeypatch.setattr(study, "NUM_REFIT", {"quarter": 4, "half": 5})
    monkeypatch.setattr(study.Study, "rate", lambda *_: 1e-3)
    monkeypatch.setattr(sys, "argv", ["study.py", "--seeds=0", "--tokens=3072", f"--cache-dir={tmp_path}"])
    study.main()
    found = last_line(capsys.readouterr().out)
    assert set(found["nats"]) == set(study.ARMS)
    assert set(found["differences"]) == set(found["nats"]) - {"compensated"}
    assert set(found["half_nats"]) == {"compensated", "random", "ordered", "full", "prefix", study.SEARCHED}
    assert found["tflop"]["quarter random"] < found["tflop"]["quarter compensated"] < found["tflop"]["quarter full"]
    assert found["learning_rates"] == dict.fromkeys(study.STARTS, 1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_lead_is_measured_at_every_budget(monkeypatch, capsys, tmp_path):
    import crossover
    import quickstart

    few = {"population": 2, "num_balanced": 1, "epochs": 1, "num_elites": 1, "num_mutants": 1, "num_crossovers": 0}
    monkeypatch.setattr(crossover, "SETTINGS", crossover.SETTINGS.model_copy(update=few))
    monkeypatch.setattr(crossover, "BINS", {"quarter": budwood.BinSettings(low=1, high=10**6)})
    other = quickstart.WIKIPEDIA.model_copy(update={"path": ("package://asyncio/*.py",)})
    monkeypatch.setattr(crossover, "ADDRESSES", other)
    monkeypatch.setattr(crossover, "NUM_REFIT", 4)
    monkeypatch.setattr(crossover, "NUM_HELDOUT", 2)
    monkeypatch.setattr(crossover, "BUDGETS", (1536, 2048, 4096))
    monkeypatch.setattr(sys, "argv", ["crossover.py", "--most=2048", f"--cache-dir={tmp_path}"])
    crossover.main()
    found = last_line(capsys.readouterr().out)
    assert found["tokens"] == [1536, 2048]
    assert found["flops"]["random"] < found["flops"]["compensated"] < found["flops"]["distilled"]
    for arm in crossover.ARMS[1:]:
        differences = [random - own for random, own in zip(found["random"], found[arm], strict=True)]
        assert found["leads"][arm]["lead"] == pytest.approx(differences, abs=2e-4)
    assert found["crossing_tokens"] is None


@pytest.mark.slow
def test_peers_are_compared_with_our_arms_in_small(monkeypatch, capsys, tmp_path):
    import peers_quality

    monkeypatch.setattr(sys, "argv", ["peers_quality.py", "--small", f"--cache-dir={tmp_path}"])
    peers_quality.main()
    table = capsys.readouterr().out
    found = last_line(table)
    for size in ("half", "quarter"):
        assert {tool: len(nats) for tool, nats in found[size].items()} == dict.fromkeys(peers_quality.OWN, 2)
        assert min(nats for of in found[size].values() for nats in of) > 0
        (difference, error), _ = found["less_budwood"][size]["paper"]
        assert difference == pytest.approx(found[size]["paper"][0] - found[size]["budwood"][0], abs=2e-3)
        assert error > 0
    # What is finished is not made again.
    monkeypatch.setattr(peers_quality.Bench, "_trained", None)
    monkeypatch.setattr(peers_quality.Bench, "_own", None)
    peers_quality.main()
    assert capsys.readouterr().out == table


def test_the_block_goes_that_changes_the_stream_least():
    import peers_cut

    teacher = tiny_teacher("llama", tied=True)
    for layer in teacher.model.layers[1:3]:
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(matrix.weight)
    texts = torch.arange(3 * 8).reshape(3, 8)
    angles = peers_cut.block_angles(teacher, texts, 2)
    assert len(angles) == len(teacher.model.layers) - 1
    assert angles[1] == pytest.approx(0, abs=1e-3)
    assert min(angles[0], angles[2]) > 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("family", "refits"), [("llama", True), ("gemma3_text", False)])
def test_cuts_are_compared_and_refitted_where_that_has_a_form(family, refits, monkeypatch, capsys, tmp_path):
    import cuts
    import quickstart

    random = TEACHER | {"model_type": family, "initializer_range": 0.2}
    monkeypatch.setattr(quickstart, "TEACHER", budwood.TeacherSettings(random=random))
    anything = cuts.ParameterBin(1, 10**9)
    case = cuts.Case(anything, anything, SMALL_SHAPE, (*SMALL_SHAPE[:4], 4), draws_three_quarter=True)
    monkeypatch.setattr(cuts, "CASES", {"smollm2_135m": case})
    monkeypatch.setattr(cuts, "MIN_WIDTH", 16)
    given = ["--num-shapes=2", "--num-windows=2", "--ways", "refitted", f"--cache-dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["cuts.py", *given])
    cuts.main()
    found = last_line(capsys.readouterr().out)
    assert found["teacher"] == "smollm2_135m"
    own = {name for name in found if "refitted" in name}
    assert own == ({"handpicked_refitted_nats", "three_quarter_refitted_nats"} if refits else set())
    for steps in (found["steps_nats"], found["three_quarter_steps_nats"]):
        assert set(steps) == {*cuts.MAIN_WAYS, *(["refitted"] if refits else [])}
        assert all(0 < nats < 20 for nats in steps.values())
    if refits:
        assert found["handpicked_refitted_nats"] != found["handpicked_nats"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_fewer_tokens_leave_room_for_layers(monkeypatch, capsys, tmp_path):
    import quickstart
    import vocabulary

    tokenizer = train_tokenizer([file.read_text() for file in sorted(Path(encodings.__path__[0]).glob("cp*.py"))], 700)
    model = tiny_teacher("llama", tied=True, **TEACHER, vocab_size=700, bos_token_id=0, eos_token_id=0)
    folder = save_checkpoint(model, tokenizer, tmp_path / "teacher")
    monkeypatch.setattr(quickstart, "TEACHER", budwood.TeacherSettings(model=str(folder)))
    case = vocabulary.CASES["smollm2_135m"]
    monkeypatch.setattr(vocabulary, "CASES", {"smollm2_135m": replace(case, handpicked=(*SMALL_SHAPE[:4], 2))})
    monkeypatch.setattr(vocabulary, "LENGTH", 32)
    monkeypatch.setattr(vocabulary, "NUM_TOKENS", 24)
    given = ["--sizes", "600", "260", "--tokens=1024", "--passages=3", f"--cache-dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["vocabulary.py", *given])
    vocabulary.main()
    found = last_line(capsys.readouterr().out)
    assert found["sizes"] == [700, 600, 260]
    assert found["num_layers"] == [2, 2, 3]
    assert found["intermediate_size"][0] == SMALL_SHAPE[3] < found["intermediate_size"][1]
    assert found["cut_parameters"][0] >= max(found["cut_parameters"]) > 0.99 * found["cut_parameters"][0]
    assert found["tokens_per_byte"] == sorted(found["tokens_per_byte"])
    for model in ("teacher", "cut", "trained"):
        assert found[f"{model}_change"][0] == [0, 0]
        for (own, _), (more, _) in zip(found[f"{model}_bits"], found[f"{model}_change"], strict=True):
            assert own - more == pytest.approx(found[f"{model}_bits"][0][0], abs=2e-4)
    # The embedding of all tokens leaves no room for a layer.
    monkeypatch.setattr(sys, "argv", ["vocabulary.py", *given, "--parameters=34000"])
    vocabulary.main()
    smaller = last_line(capsys.readouterr().out)
    assert smaller["sizes"] == [600, 260]
    assert max(smaller["cut_parameters"]) <= smaller["parameters"] == 34_000 < found["parameters"]
    assert smaller["teacher_bits"] == found["teacher_bits"][1:]
    assert smaller["cut_change"][0] == [0, 0]
