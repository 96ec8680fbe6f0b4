"""What a loss does not show: copying and recall in context, free generation, and what is forgotten.

Every model is asked 100 questions of each task in context, in words of held-out Wikipedia and presidential addresses
(guessing is right in 25%). It continues 16 held-out beginnings, and reads held-out text of both sources and of a
language that training text lacks (French). The teacher comes first, then random weights of the cut's shape, the cut,
and all models that are named, such as those that `crossover.py` trains.

`order_gates` are what the sanity gates find of the teacher's order: the loss of its first halves less the better of its
last halves and the first halves in the teacher's own order.

Usage: python benchmarks/beyond.py CUT [--models trained=folder ...]; about five minutes on a core that multiplies
bfloat16. CUT is a folder that `crossover.py` names.

Last line: a JSON object with `order_gates`, and for every model `copy` and `recall` (share, standard error),
`repetition`, `distinct`, `agreement` (mean, standard error), `nats` and `foreign_nats` (loss, standard error).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quickstart import ADDRESSES, CACHE_DIR, FRENCH, ORDERED, open_quickstart

from budwood import Checkpoint, Schedule, Study
from budwood.evaluation.harness import write_tasks
from budwood.evaluation.settings import COPY, RECALL, EvaluationSettings, HeldOutSettings
from budwood.evaluation.statistics import mean_and_error
from budwood.records.evaluation import Sample
from budwood.records.teacher import SourceLoss
from budwood.study.evaluation import AskModel, ContinuePrompts, build_questions
from budwood.study.gates import CheckOrder
from budwood.study.text import Windows

ASKED = EvaluationSettings(tasks=("in_context",), heldout=HeldOutSettings(questions=50), batch_size=8)
UNTRAINED = Schedule(tokens=1, sequence_length=256, global_batch=1, micro_batch=1)
"""One step at a rate of nothing: random weights as they are."""


def order_gates(study: Study) -> dict[str, float]:
    """Return what the gates find of the teacher's order, by axis."""
    stage = CheckOrder(
        teacher=study.teacher,
        importance=study.ranked.importance,
        ordering=ORDERED,
        windows=Windows(tokens=study.tokens, split="selection", length=256, count=2),
        compute=study.materials.compute,
        batch_size=4,
    )
    return {gate.name.split()[3]: round(gate.value, 3) for gate in study.workspace.finish(stage)}


class Measured:
    """What is asked of every model."""

    def __init__(self, study: Study, folder: Path) -> None:
        """Write the questions, and let the teacher continue its prompts."""
        self.study, self.tasks = study, folder / "in_context"
        write_tasks(build_questions(study.tokens, study.teacher, ASKED), self.tasks)
        self.samples: tuple[Sample, ...] = ()
        self.samples = tuple(self._written("teacher", study.teacher))

    def of(self, name: str, model: Checkpoint) -> dict[str, Any]:
        """Return all figures of a model."""
        written = self.samples if name == "teacher" else self._written(name, model)
        return self._answers(name, model) | _variety(written) | self._losses(model)

    def _written(self, name: str, model: Checkpoint) -> list[Sample]:
        study = self.study
        stage = ContinuePrompts(
            model_name=name, model=model, tokens=study.tokens, teacher=self.samples, compute=study.materials.compute
        )
        return study.workspace.finish(stage).samples

    def _answers(self, name: str, model: Checkpoint) -> dict[str, Any]:
        stage = AskModel(
            model_name=name,
            model=model,
            bos_token_id=self.study.tokens.bos_token_id,
            compute=self.study.materials.compute,
            folder=self.tasks,
            evaluation=ASKED,
        )
        found = {task.task: task for task in self.study.workspace.finish(stage).tasks}
        return {
            short: [round(found[task].value, 3), round(found[task].standard_error or 0.0, 3)]
            for short, task in (("copy", COPY), ("recall", RECALL))
        }

    def _losses(self, model: Checkpoint) -> dict[str, Any]:
        rows = self.study.evaluate(model).perplexity
        own = [row for row in rows if row.split == "validation"]
        (foreign,) = [row for row in rows if row.split == "foreign"]
        error = sum(row.standard_error**2 for row in own) ** 0.5 / len(own)
        return {"nats": [round(sum(row.loss for row in own) / len(own), 3), round(error, 3)]} | _foreign(foreign)


def _foreign(row: SourceLoss) -> dict[str, Any]:
    return {"foreign_nats": [round(row.loss, 3), round(row.standard_error, 3)]}


def _variety(samples: list[Sample] | tuple[Sample, ...]) -> dict[str, Any]:
    found = {name: [getattr(sample, name) for sample in samples] for name in ("repetition", "distinct", "agreement")}
    return {
        name: None if None in values else [round(part, 3) for part in mean_and_error(values)]
        for name, values in found.items()
    }


def main() -> None:
    """Measure all models and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cut", type=Path, help="folder of an export")
    parser.add_argument("--models", nargs="*", default=[], help="name=folder of further models with the same tokens")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    arguments = parser.parse_args()
    study = open_quickstart(arguments.cache_dir, addresses=ADDRESSES, french=FRENCH)
    result: dict[str, Any] = {"order_gates": order_gates(study)}
    sys.stderr.write(json.dumps(result) + "\n")
    cut = Checkpoint.open(arguments.cut)
    random = study.pretrain(cut, random=True, schedule=UNTRAINED, learning_rate=1e-12).model
    named = {name: Checkpoint.open(Path(folder)) for name, folder in (each.split("=") for each in arguments.models)}
    measured = Measured(study, arguments.cache_dir)
    for name, model in {"teacher": study.teacher, "random": random, "compensated": cut, **named}.items():
        result[name] = measured.of(name, model)
        sys.stderr.write(f"{name}: {json.dumps(result[name])}\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
