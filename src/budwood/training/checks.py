"""Checks before a run, without loading a model."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budwood.arch.count import num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.tokenization import fingerprint_tokenizer
from budwood.corpus.tokenization import num_ids as num_ids_of
from budwood.models.checkpoint import load_config, load_tokenizer
from budwood.models.device import Compute, choose_compute, require_device_for_each
from budwood.models.kind import check_lengths
from budwood.models.vocabulary import num_dropped_ids
from budwood.training.checkpoints import require_space
from budwood.training.job import TrainingJob
from budwood.training.order import reading_order
from budwood.training.teacher import (
    cache_facts,
    check_entries,
    num_rows,
    open_cache,
    student_architecture,
    teacher_compute,
)


def check_job(job: TrainingJob) -> Compute:
    """Check a job against its files and this machine before anything expensive, and return where it runs.

    Raises:
        ValueError: a folder contains no checkpoint, sequences are longer than the model's positions, the corpus is too
            small or was made by another tokenizer, the teacher cannot teach (see
            `check_teacher`), the processes do not divide the batch or are more than the
            devices, or weights are to be sharded on a CPU.
        OSError: checkpoints do not fit on the disk.
    """
    compute, schedule = choose_compute(job.device, job.precision), job.schedule
    seeing = {job.model_folder or job.teacher_folder} | ({job.teacher_folder} if job.distillation else set())
    for folder in seeing:
        check_lengths(folder, load_config(folder), {"sequence_length": schedule.sequence_length})
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    schedule.require_shared_by(processes)
    if compute.name == "cuda":
        require_device_for_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if job.engine.sharding and not job.engine.launcher and processes == 1:
        raise ValueError("sharding=true needs a launcher: a single process cannot shard")
    if job.engine.sharding and compute.device.type == "cpu":
        raise ValueError("sharding=true needs accelerators: on a CPU accelerate would run plain DDP and not say so")
    corpus = PackedCorpus.open(job.corpus_folder)
    check_text(corpus, job.teacher_folder)
    check_rows(f"arm {job.arm}", student_architecture(job).vocab_size, job.teacher_folder)
    starts = reading_order(corpus, job)
    if job.distillation is not None:
        check_teacher(job, corpus, starts)
    corpus.heldout_starts(schedule.sequence_length, job.heldout_windows)
    count = schedule.num_checkpoints(job.engine.kept_checkpoints) + (job.branch_folder is not None)
    require_space(job.output_folder, num_parameters(student_architecture(job)), count)
    return compute


def check_text(corpus: PackedCorpus, teacher_folder: Path) -> None:
    """Check that a text was made by a teacher's tokenizer, which is also that of its students.

    Raises:
        ValueError: another tokenizer made it.
    """
    own = fingerprint_tokenizer(load_tokenizer(teacher_folder))
    if corpus.tokenizer_fingerprint != own:
        raise ValueError(
            f"corpus_folder: {corpus.folder} was made by tokenizer {corpus.tokenizer_fingerprint[:16]}, "
            f"{teacher_folder} has {own[:16]}: tokenize the text again"
        )


def check_vocabulary(student_folder: Path, teacher_folder: Path) -> None:
    """Check that a teacher's ids mean the same tokens to its student; the padding of either does not matter.

    Raises:
        ValueError: the tokenizers map tokens to other ids.
    """
    student, teacher = load_tokenizer(student_folder), load_tokenizer(teacher_folder)
    if student.get_vocab() != teacher.get_vocab():
        raise ValueError(
            f"student {student_folder} ({len(student)} tokens) and teacher {teacher_folder} ({len(teacher)} tokens) "
            "have different vocabularies: logits cannot be compared"
        )


def check_rows(name: str, vocab_size: int, folder: Path) -> None:
    """Check that a model has a row for every id of a text; more rows pad.

    A tokenizer may make ids beyond its model's rows. They occur in no packed text.

    Raises:
        ValueError: it has fewer.
    """
    needed = min(num_ids_of(load_tokenizer(folder)), num_rows(folder))
    if vocab_size < needed:
        raise ValueError(
            f"{name} has vocab_size={vocab_size}, the tokenizer of {folder} makes {needed} ids: "
            f"give it at least {needed}"
        )


def check_teacher(job: TrainingJob, corpus: PackedCorpus, starts: NDArray[np.int64]) -> None:
    """Check before a run, without loading a model, whether its teacher can teach its student.

    Raises:
        ValueError: the vocabularies differ, a loss asks for more entries than there are tokens, or a cache is missing,
            unfinished or of something else.
    """
    settings = job.distillation
    assert settings is not None, "only a distillation has a teacher"
    if job.model_folder is not None:
        check_vocabulary(job.model_folder, job.teacher_folder)
    rows, teacher_rows = student_architecture(job).vocab_size, num_rows(job.teacher_folder)
    check_entries(settings, min(rows, teacher_rows), num_dropped_ids(job.teacher_folder))
    teacher_compute(settings, choose_compute(job.device, job.precision))
    if settings.teacher == "cached":
        if teacher_rows > rows:
            raise ValueError(
                f"arm {job.arm} has teacher='cached' and vocab_size={rows}, {job.teacher_folder} has {teacher_rows}: "
                "a cache has entries of all of its teacher's tokens; use teacher='live'"
            )
        cache = open_cache(job)
        length = job.schedule.sequence_length
        cache.check(cache_facts(job.teacher_folder, corpus, length, settings), starts)
