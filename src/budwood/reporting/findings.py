"""Everything that the report is written from."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from budwood.records.cost import Cost
from budwood.records.evaluation import Sample
from budwood.records.gate import Gate
from budwood.records.search import Winner
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.records.training import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that the report is written from.

    Attributes:
        results: see `budwood.reporting.tables.results_table`.
        savings: see `budwood.reporting.ledger.savings`.
        tasks: see `budwood.reporting.benchmarks.tasks_table`.
        speeds: see `budwood.reporting.benchmarks.speeds_table`.
        search_spaces: one row per (bin, space): `bin`, `space`, `low`, `high`, `smallest`, `largest`, `log10_members`,
            `log10_members_paper`.
        corpus_counts: see `budwood.corpus.packing.PackedCorpus.all_counts`.
        certificates: one row per (bin, space): `bin`, `space`, `num_parameters`, `largest_logit_difference`, `native`,
            `class`, `fingerprint`.
        teacher_record: what the teacher is.
        teacher_evaluation: its losses.
        arms: records of all trainings.
        winners: of all searches.
        ledger: all costs.
        order_gates: what was checked of the order of the teacher; the arms have what was checked of them.
        samples: continuations of held-out prompts.
        selections: see `budwood.reporting.selection.select_space`; None where spaces were not probed.
    """

    results: pd.DataFrame
    savings: pd.DataFrame
    tasks: pd.DataFrame
    speeds: pd.DataFrame
    search_spaces: pd.DataFrame
    corpus_counts: pd.DataFrame
    certificates: pd.DataFrame
    teacher_record: TeacherRecord
    teacher_evaluation: TeacherEvaluation
    arms: Sequence[Score]
    winners: Sequence[Winner]
    ledger: Sequence[Cost]
    order_gates: Sequence[Gate] = ()
    samples: Sequence[Sample] = ()
    selections: pd.DataFrame | None = None
