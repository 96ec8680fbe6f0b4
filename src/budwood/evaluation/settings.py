"""Settings of evaluation: which tasks are asked, and what is timed; imports neither torch nor lm_eval."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field

from budwood.records.paths import resolve_path
from budwood.records.strict import Strict

LAST_WORD, CONTINUATION = "heldout_last_word", "heldout_continuation"
COPY, RECALL = "heldout_copy", "heldout_recall"
HELDOUT_TASKS = (LAST_WORD, CONTINUATION, COPY, RECALL)
NUM_CHOICES = 4
"""Texts among which `heldout_continuation` and the tasks in context ask for the right one."""
COPIED_WORDS, RECALLED_PAIRS = 12, 6
"""Words of a question of `heldout_copy`, and pairs of one of `heldout_recall`."""
IN_CONTEXT_TOKENS = {COPY: 55, RECALL: 79}
"""Of a question with all its choices, of which those of one token are read together; measured as `TOKENS_PER_WORD`."""
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 32, 48
"""Held-out beginnings that every model continues, their tokens, and the most that it writes."""
NUM_SHOWN_PROMPTS = 3
"""Of these, those whose continuations people read."""
TOKENS_PER_WORD = 1.22
"""Of held-out questions, padding included; measured on 400 of each task from the quickstart's text, in batches of four,
by its tokenizer, which is SmolLM2's."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task, group or tag of the harness, and how it is asked."""

    task: str
    num_fewshot: int | None = None
    """Examples in front of every question; None: as many as the task itself has."""
    metric: str | None = None
    """The metric that tables show; None: `acc_norm` where there is one, else `acc`, else the task's first."""


TASK_PRESETS: dict[str, tuple[Benchmark, ...]] = {
    "heldout": (Benchmark(LAST_WORD, 0, "acc"), Benchmark(CONTINUATION, 0, "acc_norm")),
    "in_context": (Benchmark(COPY, 0, "acc"), Benchmark(RECALL, 0, "acc")),
    # "Where to begin", section 4.5.
    "paper": (
        Benchmark("copa", 0, "acc"),
        Benchmark("lambada_openai", 0, "acc"),
        Benchmark("winogrande", 0, "acc"),
        Benchmark("mmlu", 5, "acc"),
        Benchmark("arc_easy", 10, "acc_norm"),
        Benchmark("arc_challenge", 10, "acc_norm"),
        Benchmark("piqa", 10, "acc_norm"),
        Benchmark("hellaswag", 10, "acc_norm"),
    ),
    # The further columns of its tables 13, 14 and 17, whose shots and metrics it does not print.
    "extended": (
        Benchmark("openbookqa", 0, "acc_norm"),
        Benchmark("social_iqa", 0, "acc"),
        Benchmark("mmlu_continuation", 0, "acc"),
        Benchmark("commonsense_qa", 0, "acc"),
        Benchmark("boolq", 0, "acc"),
    ),
}


class HeldOutSettings(Strict):
    """How questions are made from held-out text; see `budwood.evaluation.heldout`."""

    questions: int = Field(default=100, gt=0)
    """Questions of each source in each task."""
    context_words: int = Field(default=32, gt=0)
    """Words that a model reads."""
    continuation_words: int = Field(default=12, gt=0)
    """Words of each of the four continuations."""
    seed: int = 42
    """Of the draw of questions."""


class EfficiencySettings(Strict):
    """What is timed; see `budwood.evaluation.efficiency`."""

    prompt_tokens: int = Field(default=512, gt=0)
    """Tokens that are read at once."""
    new_tokens: int = Field(default=32, gt=0)
    """Tokens generated, one by one, after the prompt."""
    batch_size: int = Field(default=1, gt=0)
    """Prompts at a time."""
    repeats: int = Field(default=5, gt=0)
    """Counted rounds, in which teacher and sub-network take turns."""
    warmups: int = Field(default=1, ge=0)
    """Rounds before the repeats, which are not counted."""

    @property
    def num_rounds(self) -> int:
        """Turns of every model: warm-ups, repeats, and one in which memory is measured."""
        return self.warmups + self.repeats + 1

    @property
    def num_tokens(self) -> int:
        """Tokens that every model reads in all of them."""
        return self.num_rounds * self.batch_size * (self.prompt_tokens + self.new_tokens)


class EvaluationSettings(Strict):
    """Which tasks trained models are asked, and what is timed, beside the losses on validation text."""

    tasks: tuple[str, ...] = ("heldout",)
    """Presets (`heldout`, `in_context`, `paper`, `extended`) and names of lm_eval's tasks, groups and tags; empty:
    nothing is asked."""
    include_path: str | None = None
    """A folder of further tasks, as `lm_eval --include_path` takes it. A relative path begins at the root of the
    project."""
    limit: int | None = Field(default=None, gt=0)
    """Questions of every task, the first ones, in which the sources of held-out tasks take turns; null: all."""
    batch_size: int = Field(default=4, gt=0)
    """Questions of one forward pass."""
    heldout: HeldOutSettings = HeldOutSettings()
    efficiency: EfficiencySettings | None = EfficiencySettings()
    """Null: nothing is timed."""

    def rooted(self, root: Path) -> Self:
        """Return the settings with the path of further tasks spelt out."""
        if self.include_path is None:
            return self
        return self.model_copy(update={"include_path": str(resolve_path(self.include_path, root))})

    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Return what is asked; of a task that is named twice, the first."""
        chosen: dict[str, Benchmark] = {}
        for name in self.tasks:
            for benchmark in TASK_PRESETS.get(name, (Benchmark(name),)):
                chosen.setdefault(benchmark.task, benchmark)
        return tuple(chosen.values())

    def question_tokens(self, num_sources: int) -> int:
        """Return about how many tokens a model reads of the questions that are made of so many sources."""
        tasks = {benchmark.task for benchmark in self.benchmarks()}
        asked = self.heldout.questions * num_sources
        asked = asked if self.limit is None else min(asked, self.limit)
        beside = sum(tokens for task, tokens in IN_CONTEXT_TOKENS.items() if task in tasks)
        words = self.heldout.context_words + self.heldout.continuation_words
        requests = (LAST_WORD in tasks) + NUM_CHOICES * (CONTINUATION in tasks)
        return round(asked * (requests * words * TOKENS_PER_WORD + beside))
