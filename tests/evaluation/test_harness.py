"""Models in lm_eval: as it would load them itself, near chance where they know nothing, counted, and resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from questions import CPU, QUESTIONS, ask, texts
from transformers import AutoModelForCausalLM

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation import harness, tasks
from budwood.evaluation.harness import fingerprint_tasks, run_benchmarks, write_tasks
from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.respondent import Respondent
from budwood.evaluation.settings import (
    CONTINUATION,
    COPY,
    LAST_WORD,
    RECALL,
    TASK_PRESETS,
    Benchmark,
    EvaluationSettings,
    HeldOutSettings,
)
from budwood.evaluation.tasks import check_benchmarks, check_names
from budwood.models.checkpoint import load_tokenizer, read_architecture
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher

pytestmark = pytest.mark.usefixtures("_datasets_cache")

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the tasks that a model is asked from now on."""
    names: list[str] = []
    ask_task = harness._Session._ask

    def note(self: harness._Session, task: Task) -> dict:
        names.append(task.task_name)
        return ask_task(self, task)

    monkeypatch.setattr(harness._Session, "_ask", note)
    return names


def test_random_weights_answer_by_chance(folder: Path, tasks_folder: Path, tmp_path: Path) -> None:
    """One in four of 100 is right, with a deviation of 4.3; nobody guesses a word."""
    record = run_benchmarks(folder, tasks_folder, EvaluationSettings(), CPU, tmp_path, bos_token_id=None)
    last_word, continuation = record.tasks
    assert abs(continuation.value - 0.25) < 4 * 0.0433
    assert last_word.value < 0.05
    assert (continuation.task, continuation.metric, continuation.chance) == (CONTINUATION, "acc_norm", 0.25)
    assert (last_word.task, last_word.metric, last_word.chance) == (LAST_WORD, "acc", None)
    assert record.harness.startswith("lm_eval 0.4.")


@pytest.mark.slow
def test_random_weights_answer_from_their_context_by_chance(folder: Path, tmp_path: Path) -> None:
    """As one in four of 100 is right by chance in both tasks."""
    questions = in_context_questions({"noise": texts(40)}, HeldOutSettings(questions=QUESTIONS))
    write_tasks(questions, tmp_path / "in_context")
    found = ask(folder, tmp_path / "in_context", tmp_path, tasks=("in_context",))
    assert [task["task"] for task in found] == [COPY, RECALL]
    for task in found:
        assert abs(task["value"] - 0.25) < 4 * 0.0433
        assert (task["metric"], task["chance"], task["num_questions"]) == ("acc", 0.25, QUESTIONS)
        assert 0 < task["standard_error"] < 0.06


def test_errors_and_answers_fit_the_value(folder: Path, tasks_folder: Path, tmp_path: Path) -> None:
    """The error of a mean: the sample deviation over sqrt(n)."""
    for task in ask(folder, tasks_folder, tmp_path):
        answers = np.array(task["answers"])
        assert len(answers) == task["num_questions"] == QUESTIONS
        assert task["value"] == pytest.approx(answers.mean())
        assert task["standard_error"] == pytest.approx(answers.std(ddof=1) / np.sqrt(QUESTIONS))
        assert (task["version"], task["num_fewshot"]) == (1.0, 0)


def test_a_model_that_knows_the_text_is_right(folder: Path, tasks_folder: Path, tmp_path: Path) -> None:
    """A head that is drawn to the bytes of one choice: whatever the context, that choice wins."""
    rows = [json.loads(line) for line in (tasks_folder / f"{CONTINUATION}.jsonl").read_text().splitlines()]
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
    (found,) = ask(knowing, tmp_path / "tasks", tmp_path, tasks=[CONTINUATION])
    assert found["value"] == 1.0


def test_it_equals_the_harness_with_a_folder_of_its_own_loading(
    folder: Path, tasks_folder: Path, tmp_path: Path
) -> None:
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
    theirs = evaluate(
        HFLM(str(folder), device="cpu", dtype="float32", batch_size=3),
        manager.load([LAST_WORD, CONTINUATION]),
        limit=20,
        bootstrap_iters=10,
    )
    for task in ask(folder, tasks_folder, tmp_path, batch_size=5, limit=20):
        expected = theirs["results"][task["task"]]
        assert task["num_questions"] == 20
        for metric, found in task["metrics"].items():
            assert found["value"] == pytest.approx(expected[f"{metric},none"])
            assert found["standard_error"] == pytest.approx(expected[f"{metric}_stderr,none"])


def test_what_is_computed_is_counted(folder: Path, tmp_path: Path) -> None:
    """Byte tokens, one question of four choices: 9 bytes of context, a space and 3, 3, 3 and 5 of choice, padded."""
    row = {"context": "abc defgh", "choices": ["one", "two", "six", "seven"], "label": 0}
    write_tasks({CONTINUATION: [row]}, tmp_path / "tasks")
    (task,) = ask(folder, tmp_path / "tasks", tmp_path, tasks=[CONTINUATION], batch_size=2)
    # Longest first, two at a time; the last token of a choice is predicted and not read.
    assert task["tokens"] == 2 * 14 + 2 * 12
    architecture = read_architecture(folder)
    by_length = {length: forward_flops_per_token(architecture, context=length) for length in (12, 14)}
    assert task["flops"] == 2 * 14 * by_length[14] + 2 * 12 * by_length[12]


def test_what_is_generated_is_counted(folder: Path) -> None:
    """Five tokens are read and the head reads the last; the second that is written is read, and the third is not."""
    own, architecture = Respondent(folder, CPU, 1, None), read_architecture(folder)
    own.model.generate(torch.tensor([[1, 2, 3, 4, 5]]), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    forward = {context: forward_flops_per_token(architecture, context=context) for context in (5, 6, 7)}
    head = 2 * architecture.vocab_size * architecture.hidden_size
    assert own.flops == 5 * forward[5] - 4 * head + forward[6] + forward[7]


def test_finished_benchmarks_are_not_run_again(
    folder: Path, tasks_folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    first = ask(folder, tasks_folder, tmp_path, tasks=[LAST_WORD])
    assert ask(folder, tasks_folder, tmp_path, tasks=[LAST_WORD, CONTINUATION])[0] == first[0]
    ask(folder, tasks_folder, tmp_path, tasks=[LAST_WORD, CONTINUATION])
    assert asked == [LAST_WORD, CONTINUATION]


def test_answers_of_two_tasks_never_share_a_file() -> None:
    """Tasks of one's own may have any name; answers that are found are not asked for again."""
    files = {harness._slug(name) for name in ("own/words", "own_words", "own words", "own%2Fwords")}
    assert len(files) == 4
    assert all("/" not in file for file in files)
    assert harness._slug(LAST_WORD) == LAST_WORD


def test_damaged_answers_are_named(folder: Path, tasks_folder: Path, tmp_path: Path) -> None:
    ask(folder, tasks_folder, tmp_path, tasks=[LAST_WORD])
    damaged = next(file for file in tmp_path.rglob(f"*{LAST_WORD}-*.json"))
    for content in ("", damaged.read_text()[:-2]):
        damaged.write_text(content)
        with pytest.raises(ValueError, match=f"{damaged} is damaged .*: remove it and run again"):
            ask(folder, tasks_folder, tmp_path, tasks=[LAST_WORD])


def test_a_folder_without_tokenizer_is_refused(folder: Path, tasks_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="bare has no tokenizer"):
        ask(bare, tasks_folder, tmp_path)


def test_presets_are_those_of_the_paper() -> None:
    """Section 4.5: shots, and which accuracies are normalised by length."""
    assert {(b.task, b.num_fewshot, b.metric) for b in TASK_PRESETS["paper"]} == {
        ("copa", 0, "acc"),
        ("lambada_openai", 0, "acc"),
        ("winogrande", 0, "acc"),
        ("mmlu", 5, "acc"),
        *((task, 10, "acc_norm") for task in ("arc_easy", "arc_challenge", "piqa", "hellaswag")),
    }
    assert len(TASK_PRESETS["extended"]) == 5


def test_a_task_that_is_named_twice_is_asked_once() -> None:
    chosen = EvaluationSettings(tasks=("heldout", "hellaswag", "paper", LAST_WORD)).benchmarks()
    assert [b.task for b in chosen].count("hellaswag") == 1
    assert chosen[2] == Benchmark("hellaswag")
    assert len(chosen) == 2 + 8
    assert EvaluationSettings(tasks=()).benchmarks() == ()


def test_questions_of_their_own_need_no_look_at_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "known_tasks", None)
    check_benchmarks(EvaluationSettings())
    check_benchmarks(EvaluationSettings(tasks=[]))
    check_names(EvaluationSettings(tasks=["heldout", "paper", "extended"]))


@pytest.mark.parametrize(("positions", "num_cut"), [(16, 0), (15, 1), (12, 2), (8, 3)])
def test_questions_that_exceed_the_positions_are_counted(
    tmp_path: Path, positions: int, num_cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Byte tokens: contexts of 4, 8 and 11 with a space and at most five of choice; the last token is not read."""
    folder = fetch_teacher(
        TeacherSettings(random=SIZES | {"max_position_embeddings": positions}), tmp_path / "m"
    ).checkpoint.folder
    rows = [{"context": "a" * size, "choices": ["one", "seven"], "label": 0} for size in (4, 8, 11)]
    write_tasks({CONTINUATION: rows}, tmp_path / "tasks")
    (task,) = ask(folder, tmp_path / "tasks", tmp_path, tasks=[CONTINUATION])
    assert task["num_cut"] == num_cut
    said = [record.getMessage() for record in caplog.records if "positions" in record.getMessage()]
    assert len(said) == (num_cut > 0)
    assert not [record for record in caplog.records if "Combined length" in record.getMessage()]


def test_prompts_that_exceed_the_positions_are_counted(folder: Path) -> None:
    respondent = Respondent(folder, CPU, 2, None)
    ids, mask = respondent.tok_batch_encode(["abc", "abcdef"], left_truncate_len=4)
    whole, _ = HFLM.tok_batch_encode(respondent, ["abc", "abcdef"], left_truncate_len=4)
    assert torch.equal(ids, whole)
    assert mask.sum(1).tolist() == [3, 4]
    assert respondent.was_cut([("abcdef", {"until": []})])
    assert not respondent.was_cut([("abc", {"until": []})])


@pytest.mark.parametrize("begins", [True, False])
def test_requests_begin_as_the_sequences_of_the_corpus(folder: Path, begins: bool) -> None:  # noqa: FBT001
    token = load_tokenizer(folder).eos_token_id if begins else None
    respondent = Respondent(folder, CPU, 2, token)
    first = [token] if begins else []
    context, continuation = respondent._encode_pair("abc", " def")
    assert context == first + respondent.tok_encode("abc", add_special_tokens=False)
    assert continuation == respondent.tok_encode(" def", add_special_tokens=False)
    ids, _ = respondent.tok_batch_encode(["abc"])
    assert ids[0].tolist() == context


@pytest.mark.parametrize("begins", [True, False])
def test_a_continuation_of_nothing_follows_what_precedes_a_document(folder: Path, tmp_path: Path, begins: bool) -> None:  # noqa: FBT001
    """The harness would take the tokenizer's beginning of text also where the corpus never has it."""
    own = shutil.copytree(folder, tmp_path / "model")
    tokenizer = load_tokenizer(own)
    tokenizer.add_special_tokens({"bos_token": "a"})
    tokenizer.save_pretrained(own)
    respondent = Respondent(own, CPU, 2, tokenizer.bos_token_id if begins else None)
    read: list[list[int]] = []
    respondent._loglikelihood_tokens = lambda requests, **_: read.extend(row[1] for row in requests) or [(0.0, True)]
    respondent.loglikelihood([Instance("loglikelihood", {}, ("", " def"), 0)])
    assert read == [[tokenizer.bos_token_id if begins else tokenizer.eos_token_id]]


def test_a_fingerprint_follows_the_questions(tmp_path: Path) -> None:
    prints = []
    for target in (" word", " word", " other"):
        write_tasks({LAST_WORD: [{"context": "a", "target": target}]}, tmp_path / "tasks")
        prints.append(fingerprint_tasks(tmp_path / "tasks"))
    assert prints[0] == prints[1] != prints[2]
    assert not (tmp_path / "tasks.partial").exists()
