"""Plans, against sums worked by hand and against the paper's tables."""

import numpy as np
import pytest
from papers import (
    H100,
    MEASUREMENT,
    PAPERS,
    PYTHIA_69B,
    PYTHIA_410M,
    SEARCH,
    WRITTEN,
    conditions,
    forecast,
    row,
    study,
)

from budwood.arch.count import (
    forward_flops_per_token,
    layer_flops_per_token,
    num_parameters,
    training_flops_per_token,
)
from budwood.evaluation.settings import EfficiencySettings, EvaluationSettings, HeldOutSettings
from budwood.records.names import Variant
from budwood.reporting.quote import disk_bytes, markdown_plan
from budwood.reporting.streaming import certificate_memory, intake_memory
from budwood.search.settings import SearchSettings
from budwood.study.costs import Correction, Extent, moments_cost, writing_cost
from budwood.study.gate_costs import halved
from budwood.study.limits import warnings_of
from budwood.study.plan import plan, search_costs
from budwood.study.planned import CHOSEN
from budwood.study.settings import ProtocolSettings
from budwood.subnet.flops import solve_work
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.cache import bytes_of_sequence
from budwood.training.settings import DistillationSettings
from budwood.training.teacher import cache_shape

PROBE_TOKENS = 2_000_000_000


def test_the_papers_bin_by_hand() -> None:
    """4,624 steps of 1,056 x 2,048 tokens; a search of 5,050 x 1,000 and one finalist of 64, each 512 tokens."""
    planned = plan(study(), H100, 0.4)
    tokens, context = 4624 * 1056 * 2048, {"context": 512}
    training = row(planned, "training", "random_init")
    assert training["tokens"] == tokens
    assert training["flops"] == tokens * training_flops_per_token(PYTHIA_410M, context=2048)
    assert training["paper_flops"] == training["flops"]
    assert training["device_hours"] == pytest.approx(training["flops"] / 989e12 / 0.4 / 3600)
    assert row(planned, "teacher", "distilled")["flops"] == tokens * forward_flops_per_token(PYTHIA_69B, context=2048)
    search = row(planned, "search")
    assert search["flops"] == (5050 * 1000 + 64) * 512 * forward_flops_per_token(PYTHIA_410M, **context)
    assert search["paper_flops"] / 1e18 == pytest.approx(2.349, abs=0.0005)
    assert row(planned, "heldout", "distilled")["tokens"] == 5 * 32 * 2048
    assert row(planned, "evaluation")["tokens"] == 3 * (200 * 512 + 2 * WRITTEN)
    # The teacher: 200 sequences of validation and 32 of training text.
    assert row(planned, "evaluation", bin_name="")["tokens"] == 232 * 512 + WRITTEN
    assert row(planned, "compensation")["flops"] == 0
    calibration = row(planned, "calibration", bin_name="")
    assert calibration["flops"] == 64 * 512 * layer_flops_per_token(PYTHIA_69B, *PYTHIA_69B.layers, **context)
    assert np.isnan(calibration["paper_flops"])


def test_what_no_space_needs_of_the_teacher_is_not_planned() -> None:
    """The paper orders nothing. The teacher's files are counted all the same."""
    planned = plan(study(needs_statistics=False, needs_elimination=False), H100, 0.4)
    assert not {"calibration", "elimination"} & set(planned["stage"])
    assert planned["disk_bytes"].sum() == plan(study(), H100, 0.4)["disk_bytes"].sum()


def test_probes_come_before_one_training_of_every_bin() -> None:
    """925 steps each; a cosine begins again, so the training has all of its 4,624 steps."""
    two = (forecast(), forecast(variant=Variant("small", "fine")))
    planned = plan(study(forecasts=two, protocol=ProtocolSettings(probe_tokens=PROBE_TOKENS)), H100, 0.4)
    look = 64 * 512
    probes = planned[planned["stage"] == "probe"]
    assert probes["space"].tolist() == ["coarse", "fine"]
    assert probes["tokens"].tolist() == [925 * 1056 * 2048 + look] * 2
    training, reading = (
        count(PYTHIA_410M, context=context)
        for count, context in ((training_flops_per_token, 2048), (forward_flops_per_token, 512))
    )
    assert probes["flops"].iloc[0] == 925 * 1056 * 2048 * training + look * reading
    trained = planned[planned["stage"] == "training"]
    assert trained["space"].unique().tolist() == [CHOSEN]
    assert trained["tokens"].tolist() == [4624 * 1056 * 2048] * 3


def test_a_training_that_continues_its_probe_is_shorter_by_what_it_does_not_repeat() -> None:
    """Four fifths of 925 steps: 740, the decay begins there. The 10th held-out loss of ten is the only one left out."""
    long = PAPERS.model_copy(update={"shape": "warmup_stable_decay", "num_evaluations": 10})
    planned = plan(study(schedule=long, protocol=ProtocolSettings(probe_tokens=PROBE_TOKENS)), H100, 0.4)
    trained = planned[planned["stage"] == "training"].set_index("arm")["tokens"]
    assert trained["random_init"] - trained["subnet_init"] == 740 * 1056 * 2048
    heldout = planned[(planned["stage"] == "heldout") & (planned["space"] == CHOSEN)].set_index("arm")["tokens"]
    # Of 0, 462, 925 ... those after step 740 are measured by the training.
    whole = 11 * 32 * 2048
    assert heldout.to_dict() == {"random_init": whole, "subnet_init": 9 * 32 * 2048, "distilled": whole}


def test_the_reference_of_a_bin_is_trained_once() -> None:
    two = tuple(forecast(variant=Variant("small", space), reference=PYTHIA_410M) for space in ("coarse", "fine"))
    planned = plan(study(forecasts=two), H100, 0.4)
    (found,) = planned[(planned["arm"] == "reference_init") & (planned["stage"] == "training")].to_dict("records")
    assert (found["space"], found["tokens"]) == ("", 4624 * 1056 * 2048)
    assert planned.loc[planned["stage"] == "evaluation", "tokens"].tolist()[1:] == [4 * (200 * 512 + 2 * WRITTEN)] * 2
    learned = planned[(planned["arm"] == "reference_init") & (planned["stage"] == "gate")]
    assert learned["tokens"].tolist() == [20 * 1056 * 2048], "a long run is preceded by a check that it learns"
    page = markdown_plan(planned, ("h100", 8), "at 40% of its peak", [])
    assert "2 searches and 7 training runs" in page
    large = study(forecasts=two, schedule=PAPERS.model_copy(update={"micro_batch": 48}))
    assert any("reference_init" in warning for warning in warnings_of(large, plan(large, H100, 0.4), H100, 1, 1e15))


def test_questions_and_timing_are_part_of_the_evaluation() -> None:
    """Three arms are asked; the sub-network is timed, and the teacher beside it.

    Ten questions of 25 words, once as a last word and four times as continuations, 1.22 tokens a word: 1,525. Three
    rounds of 100 tokens: 300.
    """
    evaluation = EvaluationSettings(
        heldout=HeldOutSettings(questions=10, context_words=20, continuation_words=5),
        efficiency=EfficiencySettings(prompt_tokens=80, new_tokens=20, repeats=1, warmups=1),
    )
    small = forward_flops_per_token(PYTHIA_410M, context=512)
    planned = plan(study(evaluation=evaluation), H100, 0.4)
    found = row(planned, "evaluation")
    assert found["tokens"] == 3 * (200 * 512 + 1525 + 2 * WRITTEN) + 2 * 300
    timed = 3 * writing_cost(PYTHIA_410M, 32, [48] * 16, [48] * 16).flops
    for model in (PYTHIA_410M, PYTHIA_69B):
        read = [80 * layer_flops_per_token(model, *model.layers, context=80) + 2 * model.vocab_size * model.hidden_size]
        read += [forward_flops_per_token(model, context=81 + step) for step in range(20)]
        timed += 3 * sum(read)
    assert found["flops"] == 3 * (200 * 512 + 1525) * small + timed
    assert row(planned, "evaluation", bin_name="")["tokens"] == 232 * 512 + 1525 + WRITTEN
    compared = plan(study(evaluation=evaluation, forecasts=(forecast(reference=PYTHIA_410M),)), H100, 0.4)
    assert row(compared, "evaluation")["tokens"] == found["tokens"] + 200 * 512 + 1525 + 300 + 2 * WRITTEN


def test_what_foreign_text_and_gates_cost_by_hand() -> None:
    """Two foreign sources: three arms after training, two of them before. Two orders of four axes, three cuts each.

    A start is checked once on 99 and 8 tokens, that a student learns on 20 steps of 1,056 x 2,048 tokens.
    """
    sources = {"train": 1, "validation": 1, "foreign": 2}
    plain, planned = plan(study(), H100, 0.4), plan(study(num_sources=sources, num_orderings=2), H100, 0.4)
    assert row(planned, "evaluation")["tokens"] - row(plain, "evaluation")["tokens"] == (3 + 2) * 2 * 200 * 512
    teacher = (row(table, "evaluation", bin_name="")["tokens"] for table in (planned, plain))
    assert next(teacher) - next(teacher) == 2 * 200 * 512
    orders = planned[(planned["stage"] == "gate") & (planned["bin"] == "")]
    assert orders["tokens"].tolist() == [3 * 4 * 512] * 8
    layers = PYTHIA_69B.with_layers(PYTHIA_69B.layers[:16])
    assert halved(PYTHIA_69B, "layers") == layers
    assert 3 * 4 * 512 * forward_flops_per_token(layers, context=512) in set(orders["flops"])
    gates = planned[(planned["stage"] == "gate") & (planned["bin"] == "small")].groupby("arm")["tokens"].apply(list)
    learned = 20 * 1056 * 2048
    assert gates.to_dict() == {
        "": [99 + 8],
        "random_init": [learned],
        "subnet_init": [learned],
        "distilled": [learned],
    }
    brief = study(schedule=PAPERS.of_length(10**9))
    short = plan(brief, H100, 0.4)
    assert short.loc[short["stage"] == "gate", "tokens"].tolist() == [99 + 8], "463 steps are not a long run"


def test_a_cached_teacher_is_asked_once_and_takes_disk() -> None:
    """4,624 steps of 1,056 sequences; no teacher runs beside a student."""
    cached = DistillationSettings(loss="sampled", num_samples=8, teacher="cached")
    planned = plan(study(distillation=cached), H100, 0.4)
    asked = row(planned, "teacher_cache", bin_name="")
    assert asked["tokens"] == 4624 * 1056 * 2048
    assert asked["flops"] == asked["tokens"] * forward_flops_per_token(PYTHIA_69B, context=2048)
    of_sequence = bytes_of_sequence(cache_shape(cached, 2048, 50432))
    # Every token: its id, at most 8 ids with counts, their number, and a mean.
    assert of_sequence == pytest.approx(2048 * (2 + 8 * (2 + 1) + 1 + 4), abs=8)
    assert asked["disk_bytes"] == 4624 * 1056 * of_sequence
    assert "teacher" not in set(planned["stage"])


@pytest.mark.parametrize("teacher", ["live", "cached"])
def test_a_tail_of_dropped_ids_costs_their_rows_of_the_head(teacher: str) -> None:
    """1,000 rows of 4,096, in two bytes each; other losses do not run them."""
    stage, arm, bin_name = ("teacher", "distilled", "small") if teacher == "live" else ("teacher_cache", "", "")
    tables = {}
    for loss in ("topk_tail", "sampled"):
        wanted = DistillationSettings(loss=loss, teacher=teacher)
        for dropped in (0, 1000):
            tables[loss, dropped] = plan(study(distillation=wanted, num_dropped_ids=dropped), H100, 0.4)
    flops = {key: row(table, stage, arm, bin_name)["flops"] for key, table in tables.items()}
    assert flops["topk_tail", 1000] - flops["topk_tail", 0] == 4624 * 1056 * 2048 * 2 * 1000 * 4096
    assert len({flops["topk_tail", 0], flops["sampled", 0], flops["sampled", 1000]}) == 1
    assert disk_bytes(tables["topk_tail", 1000]) - disk_bytes(tables["topk_tail", 0]) == 2 * 1000 * 4096


def test_a_fitness_costs_more_than_the_candidates_pass() -> None:
    """The teacher's head runs again beside every candidate; candidates alone read the text of the search."""
    alone, beside = (plan(study(search=search), H100, 0.4) for search in (SEARCH, SEARCH.guided_by("kl")))
    difference = row(beside, "search")["flops"] - row(alone, "search")["flops"]
    # And the teacher reads that text once.
    once = 1000 * 512 * forward_flops_per_token(PYTHIA_69B, context=512)
    assert difference == pytest.approx(2 * 50432 * 4096 * 5050 * 1000 * 512 + once)
    assert row(beside, "search")["tokens"] == row(alone, "search")["tokens"] + 1000 * 512


def test_scores_read_no_text_and_the_winner_is_looked_at() -> None:
    planned = plan(study(search=SEARCH.guided_by("magnitude")), H100, 0.4)
    assert row(planned, "search")["tokens"] == 64 * 512
    assert row(planned, "search")["paper_flops"] == 0


def test_finalists_are_trained_and_corrected_and_the_winner_pays_for_its_correction_alone() -> None:
    """Three finalists, two of them lose; each trains two steps, and is measured on 32 sequences before and after."""
    tokens = 2 * 1056 * 2048
    search = SEARCH.model_copy(update={"num_finalists": 3, "finalist_tokens": tokens})
    own = forecast(compensation=Compensation())
    searching, correction = search_costs(study(search=search), own)
    evaluated = 5050 * 1000 * 512 * forward_flops_per_token(PYTHIA_410M, context=512)
    looked = 3 * 64 * 512 * forward_flops_per_token(PYTHIA_410M, context=512)
    trained = 3 * tokens * training_flops_per_token(PYTHIA_410M, context=2048)
    measured = 3 * 2 * 32 * 2048
    looked += measured * forward_flops_per_token(PYTHIA_410M, context=2048)
    assert correction == Correction(PYTHIA_69B, PYTHIA_410M, 8, Compensation(), *[Extent(64, 512)] * 2).cost()
    assert searching.flops == pytest.approx(evaluated + looked + trained + 2 * correction.flops, rel=1e-12)
    assert searching.tokens == 5050 * 1000 * 512 + 3 * (64 * 512 + tokens) + measured + 2 * correction.tokens
    # Comparing corrected candidates costs solving on top; moments are of all searches.
    corrected, same = search_costs(study(search=search.model_copy(update={"compare": "corrected"})), own)
    solving = 5050 * solve_work(PYTHIA_69B, PYTHIA_410M, Compensation(), num_gaps=8).flops
    assert corrected.flops == pytest.approx(searching.flops + solving, rel=1e-12)
    assert (corrected.tokens, same) == (searching.tokens, correction)


@pytest.mark.parametrize(("compare", "num_rows"), [("corrected", 2), ("plain", 0)])
def test_searches_of_one_order_gather_moments_once(compare, num_rows) -> None:
    """Two coarse spaces share them, a fine one has gaps between any two of 32 layers. The refit needs none."""
    refitted = SpaceSettings(layerwise=False, compensation=Compensation(refit=True))
    others = [SpaceSettings(layerwise=True, compensation=Compensation())]
    others.append(SpaceSettings(layerwise=True, granularity="fine", compensation=Compensation()))
    forecasts = tuple(forecast(moments=each.moments) for each in (refitted, *others))
    planned = plan(study(search=SEARCH.model_copy(update={"compare": compare}), forecasts=forecasts), H100, 0.4)
    gathered = planned[(planned["stage"] == "search") & (planned["space"] == "")]
    expected = [moments_cost(PYTHIA_69B, Compensation(), gaps, Extent(64, 512)) for gaps in (31, 32 * 31 // 2)]
    assert gathered["flops"].tolist() == [cost.flops for cost in expected[:num_rows]]
    entries = 32 * (3 * 4096**2 + 16384**2) + 4096**2  # the untied head reads the stream too
    assert gathered["disk_bytes"].tolist() == [4 * (entries + n * 4096**2) for n in (31, 32 * 31 // 2)][:num_rows]


def test_certificates_by_hand() -> None:
    """Two finalists are proven on 1, 16 and 256 tokens, twice each; prompts of 512, 100 and 9 run alone and padded.

    A chat adds 128 tokens. The two arms that begin with the sub-network are proven and checked once each.
    """
    proof, check = 2 * (1 + 16 + 256), 512 + 100 + 9 + 3 * 512
    planned = plan(study(search=SEARCH.model_copy(update={"num_finalists": 2}), chats=False), H100, 0.4)
    assert row(planned, "certificate")["tokens"] == 2 * proof + check
    assert row(planned, "certificate", "distilled")["tokens"] == proof + check
    assert "random_init" not in set(planned.loc[planned["stage"] == "certificate", "arm"])
    assert row(plan(study(), H100, 0.4), "certificate")["tokens"] == proof + check + 128
    short = plan(study(chats=False, positions=11), H100, 0.4)
    assert row(short, "certificate")["tokens"] == 2 * (1 + 11) + (10 + 10 + 9 + 3 * 10)


def test_checks_and_certificates_have_their_memory() -> None:
    """An answer maps the whole export; of what was trained its float32 weights are."""
    planned = plan(study(num_orderings=1), H100, 0.4)
    size, large = study().teacher_bytes_per_parameter, forecast().largest
    assert row(planned, "intake", bin_name="")["memory_bytes"] == intake_memory(PYTHIA_69B, size).total
    assert row(planned, "certificate")["memory_bytes"] >= size * num_parameters(large)
    assert row(planned, "certificate", "distilled")["weights_bytes"] >= 4 * num_parameters(large)
    silent = row(plan(study(chats=False), H100, 0.4), "certificate")
    assert silent["memory_bytes"] == certificate_memory(large, size, (512, 100, 9), whole=False).total
    orders = planned[(planned["stage"] == "gate") & (planned["bin"] == "")]
    assert len(orders) == 4
    assert (orders["teacher_bytes"] == 2 * num_parameters(PYTHIA_69B)).all()
    lost = num_parameters(PYTHIA_69B) - num_parameters(halved(PYTHIA_69B, "channels"))
    assert orders["weights_bytes"].unique() == pytest.approx(2 * lost, rel=1e-6)


def test_a_bin_is_planned_under_its_own_conditions() -> None:
    """Twice the tokens in a bin; the text is as long as the longest training, and micro-batches decide the memory."""
    two = (forecast(), forecast(variant=Variant("large", "coarse")))
    own = conditions()
    longer = own.schedule.changed({"tokens": 2 * PAPERS.tokens, "micro_batch": 12})
    arms = own.arms.with_arms({"distilled": {"micro_batch": 3}})
    changed = study(forecasts=two, bins={"large": own.model_copy(update={"schedule": longer, "arms": arms})})
    planned, same = plan(changed, H100, 0.4), plan(study(forecasts=two), H100, 0.4)
    small, large = (row(planned, "training", "subnet_init", name) for name in ("small", "large"))
    assert small["memory_bytes"] == row(same, "training", "subnet_init")["memory_bytes"]
    assert (small["tokens"], large["tokens"]) == (4624 * 1056 * 2048, 9248 * 1056 * 2048)
    assert large["activations_bytes"] == 2 * small["activations_bytes"]
    taught = [row(table, "training", "distilled", "large")["activations_bytes"] for table in (planned, same)]
    assert 2 * taught[0] == taught[1]
    assert row(planned, "text", bin_name="")["disk_bytes"] == 2 * 9248 * 1056 * 2048
    # 1,056 is 7 times nothing: each of the portions 3, 6 and 12 is named.
    assert len([warning for warning in warnings_of(changed, planned, H100, 7, 1e15) if "cannot share" in warning]) == 3


def test_latencies_are_measured_by_three_passes_over_a_sequence() -> None:
    """Each makes the logits of one token."""
    searches = [SearchSettings(strategy="pareto", objectives=objectives) for objectives in (["latency"], ["flops"])]
    timed, plain = (row(plan(study(search=search), H100, 0.4), "search") for search in searches)
    one = 512 * layer_flops_per_token(PYTHIA_410M, *PYTHIA_410M.layers, context=512) + 2 * 50304 * 1024
    candidates = searches[0].num_evaluations
    assert timed["tokens"] - plain["tokens"] == candidates * 3 * 512
    assert timed["flops"] - plain["flops"] == pytest.approx(candidates * 3 * one)


def test_what_is_reported_is_read_at_its_own_length() -> None:
    long = MEASUREMENT.model_copy(update={"reported_length": 2048})
    planned, same = (plan(study(measurement=each), H100, 0.4) for each in (long, MEASUREMENT))
    # What models write is as long as before.
    assert row(planned, "evaluation")["tokens"] - row(same, "evaluation")["tokens"] == 3 * 200 * (2048 - 512)
    finalist = 64 * (2048 - 512)
    assert row(planned, "search")["tokens"] - row(same, "search")["tokens"] == finalist
    assert row(planned, "calibration", bin_name="")["tokens"] == row(same, "calibration", bin_name="")["tokens"]


def test_every_seed_is_a_training_of_its_own() -> None:
    """The first of them continues its probe."""
    long = PAPERS.model_copy(update={"shape": "warmup_stable_decay"})
    protocol = ProtocolSettings(probe_tokens=PROBE_TOKENS, num_seeds=3)
    planned = plan(study(schedule=long, protocol=protocol), H100, 0.4)
    tokens = planned[planned["stage"] == "training"].groupby("arm")["tokens"].apply(list)
    whole = 4624 * 1056 * 2048
    assert tokens["subnet_init"] == [whole - 740 * 1056 * 2048, whole, whole]
    assert tokens["random_init"] == tokens["distilled"] == [whole] * 3
    assert planned.loc[planned["stage"] == "evaluation", "tokens"].iloc[-1] == 3 * (3 * 200 * 512 + 2 * WRITTEN)


def test_disk_by_hand() -> None:
    """Teacher and cut in 16 bits, three models in 32, two bytes a token, and three checkpoints while one trains."""
    planned, count = plan(study(), H100, 0.4), num_parameters(PYTHIA_410M)
    stays = 2 * num_parameters(PYTHIA_69B) + 2 * count + 3 * 4 * count + 2 * 4624 * 1056 * 2048 + 5050 * 1000
    assert disk_bytes(planned) == stays + 3 * 12 * count


def test_a_teacher_beside_the_student_needs_room() -> None:
    planned = plan(study(), H100, 0.4)
    alone, taught = (row(planned, "training", arm) for arm in ("random_init", "distilled"))
    assert taught["memory_bytes"] - alone["memory_bytes"] > 2 * num_parameters(PYTHIA_69B)
    assert taught["weights_bytes"] == alone["weights_bytes"] == 6 * num_parameters(PYTHIA_410M)


def test_a_search_holds_states_of_all_text_and_moments_by_hand() -> None:
    """1,000 x 512 tokens in bfloat16: eight depths at most; of `kl` the teacher's too, and the layers that it fuses.

    Corrected candidates keep 4,096 of 16,384 neurons: a moment, and the rows of it that are kept.
    """
    text = 2 * 1000 * 512
    compared = SEARCH.model_copy(update={"compare": "corrected"})
    alone, plain, few, kl, mended = (
        row(plan(study(**changes), H100, 0.4), "search")
        for changes in (
            {"search": SEARCH.model_copy(update={"reuse": False})},
            {},
            {
                "search": SearchSettings(
                    population=3, num_elites=1, num_mutants=1, num_crossovers=1, num_randoms=1, num_finalists=1
                )
            },
            {"search": SEARCH.model_copy(update={"fitness": "kl"})},
            {"search": compared, "forecasts": (forecast(compensation=Compensation()),)},
        )
    )
    assert plain["activations_bytes"] - alone["activations_bytes"] == 8 * text * 1024
    assert few["activations_bytes"] - alone["activations_bytes"] == 2 * text * 1024
    layers = 2 * (num_parameters(PYTHIA_69B) - 2 * 50432 * 4096 - 2 * 4096)
    assert kl["teacher_bytes"] - plain["teacher_bytes"] == text * 4096 + layers
    assert (plain["moments_bytes"], mended["moments_bytes"]) == (0, 4 * (16384**2 + 4096 * 16384))


def test_models_are_timed_beside_the_teacher() -> None:
    evaluation = EvaluationSettings(tasks=(), efficiency=EfficiencySettings())
    timed = row(plan(study(evaluation=evaluation), H100, 0.4), "evaluation")
    assert timed["teacher_bytes"] == 2 * num_parameters(PYTHIA_69B)
    assert timed["weights_bytes"] == 2 * num_parameters(PYTHIA_410M)


def test_the_page_tells_totals_and_warnings() -> None:
    planned = plan(study(), H100, 0.4)
    page = markdown_plan(planned, ("h100", 8), "at 40% of its peak", ["Too much."])
    assert "# What this study will cost" in page
    assert "1 search and 3 training runs" in page
    assert "on h100 at 40% of its peak" in page
    assert "- Too much." in page
    assert "| small · coarse |" in page
    assert "| 2.35 EFLOP |" in " ".join(page.split())
    assert "Everything fits." in markdown_plan(planned, ("h100", 8), "at 40% of its peak", [])
