"""Prompts travel with exports, and what checks them needs nothing of budwood."""

import json
import os

import pytest
import torch
from processes import run_python
from teachers import tiny_teacher

from budwood.models.checkpoint import save_checkpoint
from budwood.models.prompts import PROMPTS, read_prompts, record_prompts, write_check
from budwood.models.teacher import byte_tokenizer
from budwood.records.serving import CHECK

STRANGER = "import sys; sys.modules['budwood'] = None; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(scope="module")
def model():
    return tiny_teacher("llama", tied=True, vocab_size=257, max_position_embeddings=80)


@pytest.fixture(scope="module")
def prompts(model):
    return record_prompts(model)


def check(folder, *arguments):
    """Run an export's own script in a process that cannot import budwood."""
    code = f"import sys; sys.argv = {[CHECK, *arguments]!r}; {STRANGER}"
    done = run_python(["-c", code], folder, {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"})
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_prompts_have_several_lengths_and_fit_the_positions(prompts):
    assert [len(prompt.input_ids) for prompt in prompts] == [79, 79, 9]
    assert all(len(prompt.logprobs) == len(prompt.input_ids) - 1 for prompt in prompts)


def test_no_prompt_makes_longrope_change_the_others():
    """Beyond 20 positions this teacher gives every text of a batch the frequencies of long ones."""
    prompts = record_prompts(tiny_teacher("phi3", tied=True))
    assert [len(prompt.input_ids) for prompt in prompts] == [19, 19, 9]


def test_log_probabilities_are_those_of_the_model(model, prompts):
    for prompt in prompts:
        ids = torch.tensor([prompt.input_ids])
        with torch.no_grad():
            loss = model(ids, labels=ids).loss
        assert -sum(prompt.logprobs) / len(prompt.logprobs) == pytest.approx(loss.item(), abs=1e-5)


def test_a_model_that_answers_otherwise_in_a_batch_is_refused(model, monkeypatch):
    forward = model.forward

    def confused(input_ids, attention_mask, use_cache):
        made = forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)
        made.logits = made.logits * (1 + 0.01 * (len(input_ids) - 1))
        return made

    monkeypatch.setattr(model, "forward", confused)
    with pytest.raises(ValueError, match="answers otherwise in a padded batch"):
        record_prompts(model)


@pytest.mark.parametrize("content", [b"", b"[{}]", b"3", b"\xff"])
def test_damaged_prompts_are_named(prompts, tmp_path, content):
    write_check(tmp_path, prompts)
    assert read_prompts(tmp_path) == prompts
    (tmp_path / PROMPTS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s){tmp_path / PROMPTS} is damaged \(.*remove its folder and run again"):
        read_prompts(tmp_path)


@pytest.mark.slow
def test_the_script_agrees_with_the_folder_and_notices_another_model(model, prompts, tmp_path):
    folder = save_checkpoint(model, byte_tokenizer(), tmp_path / "export")
    write_check(folder, prompts)
    status, said = check(folder, "transformers", ".")
    assert (status, said["agrees"], said["num_tokens"]) == (0, True, 164)
    assert said["largest_difference"] < 1e-4
    recorded = json.loads((folder / PROMPTS).read_text())
    recorded[2]["logprobs"][3] += 0.01
    (folder / PROMPTS).write_text(json.dumps(recorded))
    status, said = check(folder, "transformers", ".")
    assert (status, said["agrees"]) == (1, False)
    assert said["largest_difference"] == pytest.approx(0.01, abs=1e-4)
