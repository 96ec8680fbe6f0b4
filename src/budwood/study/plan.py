"""What a study will cost, before anything is spent: the costs of its stages, without weights or text."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters, paper_search_flops
from budwood.arch.spec import Architecture
from budwood.corpus.split import FOREIGN
from budwood.evaluation.efficiency import timing_flops
from budwood.evaluation.settings import NEW_TOKENS, NUM_PROMPTS, PROMPT_TOKENS
from budwood.models.certificate import probe_lengths
from budwood.models.chat import MAX_TOKENS
from budwood.models.prompts import prompt_lengths
from budwood.records.cost import Cost
from budwood.records.names import ARMS, BASELINE, CONTINUED, FROM_SUBNET, REFERENCE, SHARED, Variant
from budwood.records.workload import Workload
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.memory import BYTES, Memory
from budwood.reporting.quote import PlanRow, plan_table
from budwood.reporting.streaming import certificate_memory, intake_memory, stream_memory
from budwood.search.fitness import FROM_SCORES
from budwood.study import costs, gate_costs
from budwood.study.forecast import Forecast
from budwood.study.planned import PlannedStudy, order_gate_memory
from budwood.subnet.elimination import NUM_TOGETHER
from budwood.subnet.fitness import fitness_flops_per_token
from budwood.subnet.flops import NUM_TIMED, calibration_work, elimination_work, moment_bytes
from budwood.subnet.settings import MomentSettings
from budwood.training.cache import bytes_of_sequence
from budwood.training.settings import ArmSettings, RateSweep, Schedule
from budwood.training.teacher import cache_shape, with_tail

_MODEL_BYTES = 4
"""Of a parameter of a trained model."""
_CHECKPOINT_BYTES = 12
"""Of a parameter in a checkpoint: float32 weights and AdamW's two moments."""
_UINT16_VALUES = 2**16
_WRITTEN = (NEW_TOKENS,) * NUM_PROMPTS
"""Tokens of every continuation, if none ends a document."""


def plan(study: PlannedStudy, accelerator: Accelerator, mfu: float) -> pd.DataFrame:
    """Return what every stage of a study will cost.

    Sub-networks that are not found yet are counted as the mean of members of their bin, and their memory as that of the
    member that takes most. An elimination is counted with the trials that are expected. Searches whose candidates race
    are counted as if none was dropped, and what models write as if no document ended: neither can be more.

    Args:
        study: the study.
        accelerator: runs it.
        mfu: share of the accelerator's peak that is reached, in stages of which it has no pace.

    Returns:
        Rows as `budwood.reporting.quote.PlanRow` describes them, a column for every field and part of the memory.
    """
    one_of_each = {each.variant.bin: each for each in study.trained}
    rows = [
        *_shared_rows(study),
        *(row for each in study.forecasts for row in _search_rows(study.within(each.variant.bin), each)),
        *(row for each in study.trained for row in _training_rows(study.within(each.variant.bin), each)),
        *(row for each in one_of_each.values() for row in _reference_rows(study.within(each.variant.bin), each)),
    ]
    hours = [accelerator.hours(row.stage, row.flops, mfu, row.work) for row in rows]
    return plan_table([replace(row, device_hours=spent) for row, spent in zip(rows, hours, strict=True)])


def search_costs(study: PlannedStudy, each: Forecast) -> list[Cost]:
    """Return what it takes to find a sub-network, and by itself to correct the winner."""
    search, length = study.search, study.conditions.measurement.length
    selection = study.text("selection", 0 if search.fitness in FROM_SCORES else None)
    per_token = each.forward(length) + fitness_flops_per_token(search.fitness, study.teacher)
    reading = costs.reading_cost("search", per_token, costs.Extent(search.num_evaluations * selection.count, length))
    num_readings = search.num_evaluations * (1 + len(search.stages))
    solved = num_readings * each.solving(study.teacher) if search.compares_corrected else 0.0
    searching = reading.model_copy(update={"flops": reading.flops + solved})
    timed = search.num_evaluations if "latency" in search.objectives and search.fitness not in FROM_SCORES else 0
    timing = Cost(stage="search", tokens=timed * NUM_TIMED * length, flops=timed * each.measuring_latency(length))
    refitting = study.text("calibration", study.conditions.measurement.num_refit)
    correction = each.correction(study.teacher, study.text("calibration"), refitting)
    finalists, heldout = search.num_finalists, study.conditions.measurement.heldout
    training = (study.schedule.brief(search.finalist_tokens), heldout) if search.finalist_tokens else None
    comparing = costs.choice_cost(
        [each.forward] * finalists, study.text("choice"), [correction] * (finalists - 1), training
    )
    parts = [searching, timing, comparing, *costs.fitness_costs(search.fitness, study.teacher, selection)]
    return [Cost.total("search", parts), correction]


def gathering_costs(study: PlannedStudy, wanted: Sequence[MomentSettings | None]) -> list[tuple[Cost, int]]:
    """Return what it costs to gather the moments that searches want, those of one order once, with their bytes on disk.

    Each layer but one may begin a gap of a coarse space, and any two layers one of a fine space.
    """
    teacher, depth, calibration = study.teacher, study.teacher.num_hidden_layers, study.text("calibration")
    once = [each for place, each in enumerate(wanted) if each is not None and each not in wanted[:place]]
    num_gaps = [depth - 1 if each.granularity == "coarse" else depth * (depth - 1) // 2 for each in once]
    return [
        (
            costs.moments_cost(teacher, each.compensation, number, calibration),
            moment_bytes(teacher, each.compensation, num_gaps=number),
        )
        for each, number in zip(once, num_gaps, strict=True)
    ]


def certificate_cost(study: PlannedStudy, each: Forecast, num_proofs: int) -> Cost:
    """Return what it takes to prove some models of a variant, and to check and ask one of them."""
    proof = costs.proof_cost(each.forward, probe_lengths(study.text("choice").length + 1, study.positions))
    check = costs.check_cost(each.forward, prompt_lengths(study.positions), MAX_TOKENS if study.chats else 0)
    return Cost.total("certificate", [*[proof] * num_proofs, check])


def _row(cost: Cost, variant: Variant | None = None, arm: str = SHARED) -> PlanRow:
    place = (variant or Variant(SHARED, SHARED))._asdict()
    return PlanRow(stage=cost.stage, **place, arm=arm, tokens=cost.tokens, flops=cost.flops)


def _proving(study: PlannedStudy, model: Architecture, size: int, *, trained: bool = False) -> Memory:
    """Return what an export takes that is described: it was proven when it was cut, unless it was trained."""
    whole, lengths = trained or study.chats, prompt_lengths(study.positions)
    return certificate_memory(model, size, lengths, whole=whole)


def _leaving(row: PlanRow, study: PlannedStudy, schedule: Schedule, trained: Architecture) -> PlanRow:
    """Return a row with what a trained model leaves on disk, and its checkpoints meanwhile."""
    count = num_parameters(trained)
    checkpoints = schedule.num_checkpoints(study.conditions.engine.kept_checkpoints)
    return replace(row, disk_bytes=_MODEL_BYTES * count, passing_disk_bytes=checkpoints * _CHECKPOINT_BYTES * count)


def _shared_rows(study: PlannedStudy) -> Iterator[PlanRow]:
    """Yield what is spent once: the text, and the passes of the teacher alone."""
    teacher, schedule, measurement = study.teacher, study.longest, study.conditions.measurement
    token_bytes = 2 if teacher.vocab_size <= _UINT16_VALUES else 4
    yield PlanRow(stage="text", disk_bytes=schedule.num_tokens * token_bytes)
    yield PlanRow(stage="intake").holding(intake_memory(teacher, study.teacher_bytes_per_parameter), teacher)
    if study.needs_statistics:
        text = study.text("calibration")
        streamed = stream_memory(teacher, study.reading(text, BYTES[study.precision]))
        work = calibration_work(teacher, num_tokens=text.num_tokens, context=text.length)
        yield replace(_row(costs.stream_cost("calibration", teacher, text)).holding(streamed, teacher), work=work)
    if study.needs_elimination:
        text = study.text("calibration", min(measurement.elimination, measurement.calibration))
        together, reading = min(NUM_TOGETHER, teacher.num_hidden_layers), study.reading(text, BYTES[study.precision])
        streamed = stream_memory(teacher, reading, num_trials=together)
        cost = costs.elimination_cost(teacher, text, study.trials)
        yield replace(_row(cost).holding(streamed, teacher), work=elimination_work(teacher, cost, context=text.length))
    wanted = [each.moments for each in study.forecasts if study.search.compares_corrected]
    yield from (replace(_row(cost), disk_bytes=size) for cost, size in gathering_costs(study, wanted))
    checked = study.text("selection", min(measurement.elimination, measurement.selection))
    halves = order_gate_memory(teacher, lambda half: study.reading_memory(half, teacher))
    for cost in gate_costs.order_gate_costs(teacher, checked).values():
        yield from [_row(cost).holding(halves, teacher)] * study.num_orderings
    sequences = sum(count * study.num_sources.get(split, 0) for split, count in measurement.reported.items())
    asked = study.evaluation.question_tokens(study.num_sources["validation"])
    forward = float(forward_flops_per_token(teacher, context=measurement.final_length))
    read = Cost.of("evaluation", sequences * measurement.final_length + asked, forward)
    written = costs.writing_cost(teacher, PROMPT_TOKENS, _WRITTEN)
    held = study.reading_memory(teacher)
    measured = _row(Cost.total("evaluation", [read, written])).holding(held, teacher)
    num_stored = num_parameters(teacher) + study.num_dropped_ids * teacher.hidden_size
    yield replace(measured, disk_bytes=num_stored * study.teacher_bytes_per_parameter)
    if cached := _cached_bytes(study):
        answering = with_tail(teacher, study.conditions.arms.distilled.distillation, study.num_dropped_ids)
        cost = costs.cache_cost(answering, schedule.sequence_length, schedule.num_tokens)
        yield replace(_row(cost).holding(held, teacher), disk_bytes=schedule.num_sequences * cached)


def _cached_bytes(study: PlannedStudy) -> int:
    """Return what a cached teacher's entries of a training sequence take, for all arms that read them."""
    settings = (getattr(study.conditions.arms, arm).distillation for arm in ARMS)
    return sum(
        bytes_of_sequence(cache_shape(each, study.schedule.sequence_length, study.teacher.vocab_size))
        for each in settings
        if each is not None and each.teacher == "cached"
    )


def _search_rows(study: PlannedStudy, each: Forecast) -> Iterator[PlanRow]:
    """Yield what it takes to find and cut out a sub-network, and to probe it."""
    measurement, largest, variant = study.conditions.measurement, each.largest, each.variant
    searching, correction = search_costs(study, each)
    charged = paper_search_flops(
        each.center,
        num_evaluations=study.search.num_evaluations,
        num_sequences=0 if study.search.fitness in FROM_SCORES else measurement.selection,
        sequence_length=measurement.length,
    )
    history = study.search.num_evaluations * each.genes_bytes
    searched = _row(searching, variant).holding(study.searching_memory(each), largest)
    yield replace(searched, disk_bytes=history, paper_flops=charged, taken=each.taken)
    size = study.teacher_bytes_per_parameter
    longest = study.text("calibration", max(measurement.calibration, measurement.num_refit))
    cutting = each.cutting(study.teacher, study.reading(longest, size))
    work = each.cut_work(study.teacher, study.text("calibration"), study.text("calibration", measurement.num_refit))
    cut = _row(correction, variant).holding(cutting, largest)
    yield replace(cut, disk_bytes=num_parameters(largest) * size, work=work)
    proven = certificate_cost(study, each, study.search.num_finalists)
    described = _row(proven, variant).holding(_proving(study, largest, size), largest)
    yield replace(described, work=Workload(products=proven.flops))
    if (probe := study.probe_schedule) is not None:
        forward = each.forward(probe.sequence_length)
        (trained,) = costs.training_costs(forward, 0.0, probe)
        looked = costs.reading_cost("probe", each.forward(measurement.final_length), study.text("choice"))
        memory = study.training_memory(each.members, study.micro_batch(CONTINUED))
        row = _row(Cost.total("probe", [trained, looked]), variant).holding(memory, largest)
        yield _leaving(row, study, probe, largest)
        heldout = costs.heldout_cost(forward, probe, measurement.heldout, len(probe.evaluation_steps))
        yield _row(heldout, variant)
        yield _start_row(each)
        if gate_costs.is_long(probe):
            yield _row(gate_costs.overfit_cost(forward, None, probe), variant)
        yield from _sweep_rows(study, each, CONTINUED)


def _training_rows(study: PlannedStudy, each: Forecast) -> Iterator[PlanRow]:
    """Yield what the arms of a variant cost, and what it takes to measure them."""
    probe = study.probe_schedule
    steady = probe is not None and probe.shape == "warmup_stable_decay"
    for arm in ARMS:
        if arm in FROM_SUBNET:
            proving = _proving(study, each.largest, _MODEL_BYTES, trained=True)
            yield _row(certificate_cost(study, each, 1), each.variant, arm).holding(proving, each.largest)
        if probe is None or arm != CONTINUED:
            yield from _sweep_rows(study, each, arm)
        for place in range(study.conditions.protocol.num_seeds):
            taken_over = steady and arm == CONTINUED and place == 0
            done = probe.decay_start if probe is not None and taken_over else 0
            yield from _arm_rows(study, each, arm, done)
    if probe is None:
        yield _start_row(each)
    yield _evaluation_row(study, each)


def _arm_rows(study: PlannedStudy, each: Forecast, arm: str, steps_done: int = 0) -> Iterator[PlanRow]:
    schedule, largest, teacher = study.schedule, each.largest, study.teacher_beside(arm)
    length, done = schedule.sequence_length, steps_done * schedule.tokens_per_step
    forward, beside = each.forward(length), forward_flops_per_token(teacher, context=length) if teacher else 0
    training, *asked = costs.training_costs(forward, float(beside), schedule, done=done)
    charged = float(forward_flops_per_token(each.center, context=length))
    (centre,) = costs.training_costs(charged, 0.0, schedule, done=done)
    memory = study.training_memory(each.members, study.micro_batch(arm), teacher)
    row = _leaving(_row(training, each.variant, arm).holding(memory, largest), study, schedule, largest)
    yield replace(row, paper_flops=centre.flops) if arm == BASELINE else row
    yield from (_row(cost, each.variant, arm) for cost in asked)
    points = [step for step in schedule.evaluation_steps if step > steps_done or not steps_done]
    heldout = costs.heldout_cost(forward, schedule, study.conditions.measurement.heldout, len(points))
    yield _row(heldout, each.variant, arm)
    if gate_costs.is_long(schedule):
        yield _row(gate_costs.overfit_cost(forward, teacher, schedule), each.variant, arm)


def _sweep_rows(study: PlannedStudy, each: Forecast, arm: str) -> Iterator[PlanRow]:
    """Yield what it takes to choose the learning rate of an arm, if no rate beyond those that are named is tried."""
    own: ArmSettings = getattr(study.conditions.arms, arm)
    rate = own.rate(study.schedule)
    if isinstance(rate, RateSweep):
        brief, choice = study.schedule.brief(rate.tokens), study.text("choice")
        cost = costs.sweep_cost(
            each.forward,
            study.teacher_beside(arm),
            brief,
            choice,
            num_rates=len(rate.rates),
            from_weights=arm in FROM_SUBNET,
        )
        yield _row(cost, each.variant, arm)


def _start_row(each: Forecast) -> PlanRow:
    """Return what it takes to check the loss of a sub-network once, before the first run that begins with it."""
    return _row(
        gate_costs.start_gate_cost({length: each.forward(length) for length in gate_costs.START_LENGTHS}), each.variant
    )


def _evaluation_row(study: PlannedStudy, each: Forecast) -> PlanRow:
    """Return what it takes to measure arms, to ask the first of each, and to time their model and the teacher."""
    measurement, evaluation, sources = study.conditions.measurement, study.evaluation, study.num_sources["validation"]
    length, asked = measurement.final_length, evaluation.question_tokens(sources)
    foreign, seeds = study.num_sources.get(FOREIGN, 0), study.conditions.protocol.num_seeds
    of_arm = seeds * measurement.validation * (sources + foreign) * length + asked
    spent = [Cost.of("evaluation", len(ARMS) * of_arm, each.forward(length))]
    before = seeds * measurement.validation * foreign * length
    spent.append(Cost.of("evaluation", len(FROM_SUBNET) * before, each.forward(length)))
    spent += [each.writing(PROMPT_TOKENS, _WRITTEN, _WRITTEN)] * len(ARMS)
    if each.reference is not None:
        spent.append(Cost.of("evaluation", of_arm, forward_flops_per_token(each.reference, context=length)))
        spent.append(costs.writing_cost(each.reference, PROMPT_TOKENS, _WRITTEN, _WRITTEN))
    if (efficiency := evaluation.efficiency) is not None:
        beside = [model for model in (study.teacher, each.reference) if model is not None]
        timed = [each.timing(efficiency), *(float(timing_flops(model, efficiency)) for model in beside)]
        spent += [Cost(stage="evaluation", tokens=efficiency.num_tokens, flops=flops) for flops in timed]
    return _row(Cost.total("evaluation", spent), each.variant).holding(study.evaluating_memory(each), each.largest)


def _reference_rows(study: PlannedStudy, each: Forecast) -> Iterator[PlanRow]:
    """Yield what the reference of a bin costs; all its spaces share it."""
    if each.reference is not None:
        alone = replace(each, variant=Variant(each.variant.bin, SHARED), members=(each.reference,))
        yield from _sweep_rows(study, alone, REFERENCE)
        for _ in range(study.conditions.protocol.num_seeds):
            yield from _arm_rows(study, alone, REFERENCE)
