"""What decides results, case by case."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from budwood.corpus.settings import CorpusSettings
from budwood.records.search import Finalists
from budwood.study.choice import ChooseWinner
from budwood.study.evaluation import AskModel
from budwood.study.stage import Stage
from budwood.study.text import PackText

Kind = TypeVar("Kind", bound=Stage)


def one_of(stages: list[Stage], kind: type[Kind]) -> Kind:
    (found,) = [stage for stage in stages if isinstance(stage, kind)]
    return found


def test_what_a_licence_or_a_weight_is_packs_no_text_anew(materials, stages):
    corpus = one_of(stages, PackText).corpus
    for change, same in (({"license": "MIT"}, True), ({"weight": 2.0}, True), ({"text_field": "body"}, False)):
        changed = corpus.model_copy(
            update={"sources": {name: each.model_copy(update=change) for name, each in corpus.sources.items()}}
        )
        plain, other = (PackText.of(materials.teacher, settings, Path()) for settings in (corpus, changed))
        assert (plain.facts() == other.facts()) == same, change


def test_a_winner_carries_the_facts_of_the_search_that_found_it(stages):
    """A longer search with the same finalists has another number of evaluations."""
    choice = one_of(stages, ChooseWinner)
    longer = replace(choice, searched=choice.searched.model_copy(update={"num_evaluations": 9}))
    assert longer.facts() != choice.facts()


def test_how_a_search_went_is_told_without_its_candidates(stages):
    searched = one_of(stages, ChooseWinner).searched
    assert Finalists(**dict(searched), candidates=(), costs=()).searched == searched


def test_what_begins_a_window_packs_no_text_anew(materials, stages):
    """It is put there when windows are read, and the corpus has another fingerprint for it."""
    corpus = one_of(stages, PackText).corpus
    always = CorpusSettings(**corpus.model_dump() | {"bos": "always"})
    plain, begun = (PackText.of(materials.teacher, settings, Path()) for settings in (corpus, always))
    assert plain.facts() == begun.facts()


def test_what_is_asked_decides_answers_and_how_does_not(stages, tmp_path):
    asked = one_of(stages, AskModel)
    limited, more = ({"limit": 3}, {"tasks": ("heldout", "in_context")})
    facts = [
        replace(asked, evaluation=asked.evaluation.model_copy(update=each)).facts() for each in ({}, limited, more)
    ]
    assert facts[0] == asked.facts()
    assert facts[0] != facts[1] != facts[2] != facts[0]
    (tmp_path / "heldout_copy.jsonl").write_text("{}\n")
    assert replace(asked, folder=tmp_path).facts() != asked.facts()
    larger = asked.evaluation.model_copy(update={"batch_size": 9})
    assert replace(asked, evaluation=larger).facts() == asked.facts()
