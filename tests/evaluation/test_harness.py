"""Models in lm_eval: as it would load them itself, near chance where they know nothing, counted, and resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation import harness
from budwood.evaluation.harness import (
    PRESETS,
    Benchmark,
    HarnessOptions,
    check_benchmarks,
    choose_benchmarks,
    fingerprint_tasks,
    run_benchmarks,
    write_tasks,
)
from budwood.evaluation.heldout import CONTINUATION, LAST_WORD, HeldOutSettings, heldout_questions
from budwood.models.checkpoint import load_tokenizer, read_architecture
from budwood.models.device import choose_compute

HELDOUT = PRESETS["heldout"]
QUESTIONS = 100
CPU = choose_compute("cpu", "float32")


def texts(count: int) -> list[str]:
    """Return documents of random words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(300)]
    return [" ".join(rng.choice(words, 12)) for _ in range(count)]


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = HeldOutSettings(questions=QUESTIONS, context_words=6, continuation_words=4)
    folder = tmp_path_factory.mktemp("tasks") / "heldout"
    write_tasks(heldout_questions({"noise": texts(4 * QUESTIONS)}, settings), folder)
    return folder


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def options(tasks_folder: Path) -> HarnessOptions:
    return HarnessOptions(tasks_folder=tasks_folder, compute=CPU, batch_size=16)


def test_random_weights_answer_by_chance(folder: Path, options: HarnessOptions, tmp_path: Path) -> None:
    """One in four of 100 is right, with a deviation of 4.3; nobody guesses a word."""
    record = run_benchmarks(folder, HELDOUT, options, tmp_path)
    last_word, continuation = record["tasks"]
    assert abs(continuation["value"] - 0.25) < 4 * 0.0433
    assert last_word["value"] < 0.05
    assert (continuation["task"], continuation["metric"], continuation["chance"]) == (CONTINUATION, "acc_norm", 0.25)
    assert (last_word["task"], last_word["metric"], last_word["chance"]) == (LAST_WORD, "acc", None)
    assert record["harness"].startswith("lm_eval 0.4.")


def test_errors_and_answers_fit_the_value(folder: Path, options: HarnessOptions, tmp_path: Path) -> None:
    """The error of a mean: the sample deviation over sqrt(n)."""
    for task in run_benchmarks(folder, HELDOUT, options, tmp_path)["tasks"]:
        answers = np.array(task["answers"])
        assert len(answers) == task["num_questions"] == QUESTIONS
        assert task["value"] == pytest.approx(answers.mean())
        assert task["standard_error"] == pytest.approx(answers.std(ddof=1) / np.sqrt(QUESTIONS))
        assert (task["version"], task["num_fewshot"]) == (1.0, 0)


def test_a_model_that_knows_the_text_is_right(folder: Path, options: HarnessOptions, tmp_path: Path) -> None:
    """A head that is drawn to the bytes of one choice: whatever the context, that choice wins."""
    rows = [json.loads(line) for line in (options.tasks_folder / f"{CONTINUATION}.jsonl").read_text().splitlines()]
    for row in rows:
        row["choices"] = ["zzzz" if i == row["label"] else "yyyy" for i in range(4)]
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.lm_head.bias = None
    with torch.no_grad():
        # Final states are normalised, not zero on average: one direction for all of them.
        model.model.norm.weight.zero_()
        model.model.norm.weight[0] = 1.0
        model.model.embed_tokens.weight[:, 0] = 5.0
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("z"), 0] = 5.0
    knowing = tmp_path / "knowing"
    model.save_pretrained(knowing)
    tokenizer.save_pretrained(knowing)
    write_tasks({CONTINUATION: rows}, tmp_path / "tasks")
    own = HarnessOptions(tasks_folder=tmp_path / "tasks", compute=CPU)
    (found,) = run_benchmarks(knowing, HELDOUT[1:], own, tmp_path)["tasks"]
    assert found["value"] == 1.0


def test_it_equals_the_harness_with_a_folder_of_its_own_loading(
    folder: Path, options: HarnessOptions, tmp_path: Path
) -> None:
    manager = TaskManager(include_path=str(options.tasks_folder), include_defaults=False)
    theirs = evaluate(
        HFLM(str(folder), device="cpu", dtype="float32", batch_size=3),
        manager.load([LAST_WORD, CONTINUATION]),
        limit=20,
        bootstrap_iters=10,
    )
    limited = HarnessOptions(tasks_folder=options.tasks_folder, compute=CPU, batch_size=5, limit=20)
    for task in run_benchmarks(folder, HELDOUT, limited, tmp_path)["tasks"]:
        expected = theirs["results"][task["task"]]
        assert task["num_questions"] == 20
        for metric, found in task["metrics"].items():
            assert found["value"] == pytest.approx(expected[f"{metric},none"])
            assert found["standard_error"] == pytest.approx(expected[f"{metric}_stderr,none"])


def test_what_is_computed_is_counted(folder: Path, tmp_path: Path) -> None:
    """Byte tokens, one question of four choices: 9 bytes of context, a space and 3, 3, 3 and 5 of choice, padded."""
    row = {"context": "abc defgh", "choices": ["one", "two", "six", "seven"], "label": 0}
    write_tasks({CONTINUATION: [row]}, tmp_path / "tasks")
    options = HarnessOptions(tasks_folder=tmp_path / "tasks", compute=CPU, batch_size=2)
    (task,) = run_benchmarks(folder, HELDOUT[1:], options, tmp_path)["tasks"]
    # Longest first, two at a time; the last token of a choice is predicted and not read.
    assert task["tokens"] == 2 * 14 + 2 * 12
    architecture = read_architecture(folder)
    by_length = {length: forward_flops_per_token(architecture, context=length) for length in (12, 14)}
    assert task["flops"] == 2 * 14 * by_length[14] + 2 * 12 * by_length[12]


def test_finished_benchmarks_are_not_run_again(
    folder: Path, options: HarnessOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_benchmarks(folder, HELDOUT[:1], options, tmp_path)
    ran = []
    run = harness._Session.run
    monkeypatch.setattr(harness._Session, "run", lambda self, benchmark: ran.append(benchmark) or run(self, benchmark))
    both = run_benchmarks(folder, HELDOUT, options, tmp_path)
    assert ran == [HELDOUT[1]]
    assert both["tasks"][0] == first["tasks"][0]
    assert run_benchmarks(folder, HELDOUT, options, tmp_path) == both
    assert ran == [HELDOUT[1]]


def test_a_folder_without_tokenizer_is_refused(folder: Path, options: HarnessOptions, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="bare holds no tokenizer"):
        run_benchmarks(bare, HELDOUT, options, tmp_path)


def test_presets_are_those_of_the_paper() -> None:
    """Section 4.5: shots, and which accuracies are normalised by length."""
    assert {(b.task, b.num_fewshot, b.metric) for b in PRESETS["paper"]} == {
        ("copa", 0, "acc"),
        ("lambada_openai", 0, "acc"),
        ("winogrande", 0, "acc"),
        ("mmlu", 5, "acc"),
        *((task, 10, "acc_norm") for task in ("arc_easy", "arc_challenge", "piqa", "hellaswag")),
    }
    assert len(PRESETS["extended"]) == 5


def test_a_task_that_is_named_twice_is_asked_once() -> None:
    chosen = choose_benchmarks(["heldout", "hellaswag", "paper", LAST_WORD])
    assert [b.task for b in chosen].count("hellaswag") == 1
    assert chosen[2] == Benchmark("hellaswag")
    assert len(chosen) == 2 + 8
    assert choose_benchmarks([]) == ()


def test_every_task_of_a_preset_is_known_to_the_harness_and_others_are_not() -> None:
    known = set(harness._own_tasks().all_tasks)
    assert {b.task for name in ("paper", "extended") for b in PRESETS[name]} <= known
    with pytest.raises(ValueError, match=r"'hellaswagg' is neither a preset \(heldout, paper, extended\) nor") as error:
        check_benchmarks(choose_benchmarks(["heldout", "hellaswagg"]))
    assert "did you mean hellaswag" in str(error.value)


def test_data_that_cannot_be_had_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ValueError, match=r"the data of 'piqa' cannot be had \(ConnectionError: no route\)"):
        check_benchmarks([Benchmark("piqa")])


def test_questions_of_their_own_need_no_look_at_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_own_tasks", None)
    check_benchmarks(HELDOUT)
    check_benchmarks(())


def test_a_fingerprint_follows_the_questions(tmp_path: Path) -> None:
    prints = []
    for target in (" word", " word", " other"):
        write_tasks({LAST_WORD: [{"context": "a", "target": target}]}, tmp_path / "tasks")
        prints.append(fingerprint_tasks(tmp_path / "tasks"))
    assert prints[0] == prints[1] != prints[2]
    assert not (tmp_path / "tasks.partial").exists()
