"""Cards follow the conventions of the Hub, and say what was measured and tried."""

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from strategies import layer, llama

from budwood.arch.count import num_parameters
from budwood.models.card import Card, CardSource, Measurement
from budwood.records.serving import Opening
from budwood.records.teacher import IntakeRecord, TeacherRecord

CHILD = llama(31, 24, layer(2, 1, 8, 40))
TEACHER = TeacherRecord(
    name="forest/tree",
    revision="r1",
    model_type="llama",
    num_parameters=2 * num_parameters(CHILD),
    fingerprint="f1",
    license="Apache-2.0",
    attribution="By all.",
    num_token_ids=31,
    intake=IntakeRecord(num_tokens=48, dtype="float32", tolerance=1e-4, reading_difference=0.0, cut_difference=1e-6),
    architecture=CHILD,
)
CARD = Card(
    architecture=CHILD,
    teacher=TEACHER,
    sources=[
        CardSource(name="poems", license="CC0-1.0"),
        CardSource(name="web", license="ODC-By", attribution="Its authors.", dataset="forest/web", language="en"),
    ],
    cut={"Ordering": "activation"},
    measured=[
        Measurement(metric="loss", value=3.25, unit="nats per token", data="poems", when="before any training"),
        Measurement(metric="accuracy", value=0.5, unit="share of questions", data="ARC", when="after 5 tokens"),
    ],
    native=True,
    opens_in={
        "transformers": Opening(opens=True, how="9 log-probabilities agree"),
        "vllm": Opening(opens=False, how="heads of 50"),
        "llama.cpp": Opening(opens=None, how="not tried"),
    },
    chat="the template is kept",
)


def metadata(card: Card) -> dict:
    return yaml.safe_load(card.text().split("---")[1])


def test_the_hub_reads_what_the_card_says():
    data = ModelCard(CARD.text()).data
    assert (data.license, data.base_model, data.base_model_relation) == ("apache-2.0", "forest/tree", "finetune")
    assert (data.datasets, data.language) == (["forest/web"], ["en"])
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("loss", 3.25),
        ("accuracy", 0.5),
    ]


def test_local_names_and_unknown_licences_are_no_ids():
    teacher = TEACHER.model_copy(update={"name": "tree", "license": "Our own"})
    facts = metadata(replace(CARD, teacher=teacher, measured=[], sources=CARD.sources[:1]))
    assert not facts.keys() & {"base_model", "base_model_relation", "datasets", "language", "model-index"}
    assert (facts["license"], facts["license_name"]) == ("other", "Our own")


@pytest.mark.parametrize("native", [True, False])
def test_the_card_says_how_to_load_and_what_it_is(native):
    text = replace(CARD, native=native).text()
    assert ("trust_remote_code=True" in text) is not native
    assert f"{num_parameters(CHILD):,} (50.0% of the teacher)" in text
    for line in (
        "- Ordering: activation",
        "| Loss | 3.250 nats per token | poems | before any training |",
        "- Chat: the template is kept",
        "| vllm | no | heads of 50 |",
        "| llama.cpp | not tried | not tried |",
        "- poems: CC0-1.0.",
        "- Teacher: Apache-2.0. By all.",
    ):
        assert line in text.splitlines()
