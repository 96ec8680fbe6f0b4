"""Times and memory of models; none of these tests asks how fast anything is."""

import numpy as np
import pytest
import torch
from teachers import FULL, HALF, TEACHERS, architecture_of, families, tiny_teacher
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation.efficiency import Subject, _working_bytes, measure_efficiency
from budwood.evaluation.settings import EfficiencySettings

SETTINGS = EfficiencySettings(prompt_tokens=10, new_tokens=3, batch_size=2, repeats=4, warmups=2)


def subject(family: str = "llama", **changes: int) -> Subject:
    model = tiny_teacher(family, tied=True, **changes)
    return Subject(model, architecture_of(model))


@pytest.mark.parametrize("name", families())
def test_every_family_is_measured(name: str) -> None:
    record = measure_efficiency({"own": subject(TEACHERS[name][0])}, SETTINGS, FULL)
    own = record.models["own"]
    assert len(own.prefill_seconds) == len(own.decode_seconds) == 4
    assert min(own.prefill_seconds + own.decode_seconds) > 0
    assert own.weight_bytes == 4 * own.num_parameters
    assert own.working_bytes >= 2 * 12 * own.kv_bytes_per_token
    assert record.threads == torch.get_num_threads()


def test_the_cache_by_hand() -> None:
    """4 layers of 3 key-value heads of 16, keys and values: 384 numbers of 4 bytes, or of 2."""
    model = subject()
    assert measure_efficiency({"own": model}, SETTINGS, FULL).models["own"].kv_bytes_per_token == 1536
    half = Subject(model.model.bfloat16(), model.architecture)
    own = measure_efficiency({"own": half}, SETTINGS, HALF).models["own"]
    assert own.kv_bytes_per_token == 768
    assert own.weight_bytes == 2 * own.num_parameters


def test_models_take_turns() -> None:
    calls = []
    subjects = {name: subject() for name in ("one", "two")}
    for name, own in subjects.items():
        own.model.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    measure_efficiency(subjects, SETTINGS, FULL)
    # Six rounds of a prefill and three steps each, and one for the memory of each.
    assert calls == (["one"] * 4 + ["two"] * 4) * 7


def test_decoding_reads_the_cache_and_reading_it_gives_what_reading_all_gives() -> None:
    """The inputs of a run, joined, are what a run without cache would generate."""
    own = subject()
    seen: list[torch.Tensor] = []
    own.model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True)
    measure_efficiency({"own": own}, EfficiencySettings(prompt_tokens=5, new_tokens=3, repeats=1, warmups=0), FULL)
    prompt, *steps = seen[:4]
    assert [list(step.shape) for step in seen[:4]] == [[1, 5], [1, 1], [1, 1], [1, 1]]
    with torch.no_grad():
        for step in steps:
            assert own.model(input_ids=prompt).logits[:, -1].argmax() == step
            prompt = torch.cat([prompt, step], 1)


def test_the_cost_is_counted() -> None:
    """Seven rounds of two models: a prefill of 2 x 10 tokens at context 10, three steps of 2 at 11, 12, 13.

    Of a prefill the head, 97 x 48, reads the last position.
    """
    own = subject()
    record = measure_efficiency({"one": own, "two": own}, SETTINGS, FULL)
    forward = {context: forward_flops_per_token(own.architecture, context=context) for context in range(10, 14)}
    assert record.flops == 7 * 2 * 2 * (10 * forward[10] - 9 * 2 * 97 * 48 + forward[11] + forward[12] + forward[13])
    assert record.tokens == 7 * 2 * 2 * 13


def test_the_cost_is_what_torch_counts() -> None:
    own = subject()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        record = measure_efficiency({"own": own}, SETTINGS, FULL)
    assert record.flops == counter.get_total_flops()


def test_working_memory_by_hand() -> None:
    """A million floats, then a quarter of a million more beside them, then fewer."""

    def run() -> None:
        large = torch.zeros(1_000_000)
        small = torch.zeros(250_000)
        del large
        torch.zeros(1_000)
        del small

    assert _working_bytes(run, FULL) == pytest.approx(5_000_000, rel=1e-3)


def test_more_sequences_need_more_memory() -> None:
    own = {"own": subject()}
    peaks = [
        measure_efficiency(
            own, EfficiencySettings(prompt_tokens=8, new_tokens=1, batch_size=size, repeats=1, warmups=0), FULL
        )
        .models["own"]
        .working_bytes
        for size in (1, 2, 4)
    ]
    assert np.all(np.diff(peaks) > 0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("repeats", 0, "repeats\n  Input should be greater than 0"),
        ("warmups", -1, "warmups\n  Input should be gr.* or equal to 0"),
    ],
)
def test_settings_are_checked(name: str, value: int, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        EfficiencySettings(**{name: value})
