"""A teacher's distributions for a batch: from its forward pass, or read from a cache.

Shape legend: B sequences, T tokens of a sequence, C tokens of a chunk, N = B T, F teacher width, V vocabulary,
k entries of the top, S draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import load_config, load_model, read_architecture
from budwood.models.device import Compute, choose_compute
from budwood.models.fingerprint import fingerprint
from budwood.models.losses import cap_of, scaled, softcap
from budwood.models.vocabulary import dropped_head, num_dropped_ids
from budwood.training import losses
from budwood.training.cache import CacheFacts, CacheShape, TeacherCache
from budwood.training.job import TrainingJob
from budwood.training.losses import Logits, SparseTarget, Target
from budwood.training.settings import DistillationSettings

Entries = Mapping[str, Tensor]
"""Some entries of a teacher's distribution, every tensor with the tokens first: of the top `ids`, `log_probs` and
`log_rest`; of draws `ids`, `counts` and `mean_log_prob`."""


class Teacher(Protocol):
    """Gives distributions of the next token."""

    def __call__(self, input_ids: Tensor, starts: Tensor) -> Target:
        """Return the target of a batch.

        Args:
            input_ids: [B, T].
            starts: [B] where the sequences begin in the token file.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTeacher:
    """A frozen model that runs beside the student."""

    model: PreTrainedModel
    settings: DistillationSettings
    device: torch.device
    """The student's."""
    head: Tensor
    """[V, F] output weights on the student's device, of the tokens that both have."""
    dropped: Tensor | None = None
    """[D, F] output weights on the teacher's device, of tokens that count in the tail alone."""

    def __call__(self, input_ids: Tensor, starts: Tensor) -> Target:
        """Run the model on [B, T] ids: [B, T, F] hidden states or a few entries leave its device, never logits."""
        # Its weights have the precision that it runs in, also inside the student's autocast.
        with torch.autocast(self.model.device.type, enabled=False):
            hidden = self._run(input_ids)
            entries = {} if self.settings.loss == "full" else self._entries(hidden, starts)
        if entries:
            moved = {name: part.to(self.device) for name, part in entries.items()}
            return sparse_target(moved, self.settings, len(self.head))
        inputs = scaled(self.model, hidden.flatten(0, 1)).to(self.device)
        return Logits(inputs, self.head, cap_of(self.model))

    def entries(self, input_ids: Tensor, starts: Tensor) -> Entries:
        """Return the entries that `settings.loss` asks for, of all N tokens of [B, T] ids."""
        return self._entries(self._run(input_ids), starts)

    def _log_probs(self, states: Tensor) -> Tensor:
        """Return [C, V + D] tempered log-probabilities in float32, of dropped tokens last."""
        states = scaled(self.model, states)
        logits = states @ self.model.get_output_embeddings().weight[: len(self.head)].T
        if self.dropped is not None:
            logits = torch.cat([logits, states @ self.dropped.T], -1)
        return torch.log_softmax(softcap(logits, cap_of(self.model)).float() / self.settings.temperature, -1)

    @torch.no_grad()
    def _run(self, input_ids: Tensor) -> Tensor:
        """Return [B, T, F] last hidden states."""
        output = self.model.base_model(input_ids=input_ids.to(self.model.device), use_cache=False)
        states: Tensor = output.last_hidden_state
        return states

    @torch.no_grad()
    def _entries(self, hidden: Tensor, starts: Tensor) -> Entries:
        settings, size = self.settings, losses.CHUNK_TOKENS
        if settings.loss != "sampled":
            chunks = hidden.flatten(0, 1).split(size)
            return _join([take_top(self._log_probs(chunk), settings.top_k, len(self.head)) for chunk in chunks])
        parts: list[Entries] = []
        for start, states in zip(starts.tolist(), hidden, strict=True):
            # A sequence gets the same draws in every process and every epoch.
            (seed,) = np.random.SeedSequence((settings.sampling_seed, start)).generate_state(1, np.uint64).tolist()
            generator = torch.Generator(states.device).manual_seed(seed)
            parts += [draw(self._log_probs(chunk), settings.num_samples, generator) for chunk in states.split(size)]
        return _join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTeacher:
    """A teacher whose entries were cached."""

    cache: TeacherCache
    settings: DistillationSettings

    def __call__(self, input_ids: Tensor, starts: Tensor) -> Target:
        """Read the entries of [B, T] ids whose sequences begin at [B] `starts`."""
        entries = self.cache.read(starts.cpu().numpy(), input_ids.cpu().numpy())
        moved = {name: part.to(input_ids.device) for name, part in entries.items()}
        return sparse_target(moved, self.settings, self.cache.facts.vocab_size)


def _join(parts: list[Entries]) -> Entries:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def take_top(log_probs: Tensor, k: int, num_ids: int | None = None) -> Entries:
    """Return the k most likely tokens, their log-probabilities, and the log of the mass of all others.

    A log-probability is a logit less the log-sum-exp over the vocabulary; the mass is summed and not subtracted from
    one, which would leave rounding only where it is small.

    Args:
        log_probs: [C, V].
        k: how many.
        num_ids: the first tokens, which alone can be of the top; all without it.
    """
    values, ids = log_probs[:, :num_ids].topk(k, -1)
    rest = log_probs.scatter(1, ids, -torch.inf).logsumexp(-1)
    return {"ids": ids, "log_probs": values, "log_rest": rest}


def draw(log_probs: Tensor, num_samples: int, generator: torch.Generator) -> Entries:
    """Return tokens drawn with replacement, one count each, and the mean log-probability of a token's draws.

    Args:
        log_probs: [C, V].
        num_samples: draws per token.
        generator: of the draws, on the same device.
    """
    ids = torch.multinomial(log_probs.exp(), num_samples, replacement=True, generator=generator)
    return {
        "ids": ids,
        "counts": torch.ones_like(ids, dtype=torch.uint8),
        "mean_log_prob": log_probs.gather(1, ids).mean(-1),
    }


def sparse_target(entries: Entries, settings: DistillationSettings, num_ids: int | None = None) -> SparseTarget:
    """Return the target of a loss, from some entries p of the teacher's distribution.

    * `topk_tail`: weights p on the top k, and the rest r = 1 - sum p as one more event. The divergence of k + 1 events
      is a lower bound of the whole one and its minimum has the teacher's probabilities on the top (the bucket for
      missing logits in Arcee's DistillKit). Ids that `teacher.vocabulary` dropped are part of the rest: with logits z
      and kept ids K, `p = exp(z / T) / sum over all ids`, and `r = sum over K outside the top + sum over dropped ids`.
      The other losses have no such event. No student gives mass to an id that it lacks, so the divergence from the
      whole distribution is infinite; it is taken from `p / sum over K`, what the teacher says of kept ids given that
      the next one is of them.
    * `topk_renorm`: weights p / sum p, against the student over the whole vocabulary (paper, equation 5 as its
      reference code runs it). Biased: the student learns too much mass on the top and none elsewhere (Anshumann et
      al., 2025, arXiv 2503.16870).
    * `sampled`: weights count / S of S draws from the teacher. The gradient is unbiased, E[count / S] = p; so is the
      value, with the mean of log p over the draws for the entropy (Random Sampling Knowledge Distillation, ibid.).

    Args:
        entries: of the teacher.
        settings: of the loss.
        num_ids: tokens that the distribution is over.
    """
    ids = entries["ids"].long()
    if settings.loss == "sampled":
        counts = entries["counts"].float()
        weights = counts / counts.sum(-1, keepdim=True)
        return SparseTarget(ids, weights, entries["mean_log_prob"].float(), num_ids=num_ids)
    log_probs, log_rest = entries["log_probs"].float(), entries["log_rest"].float()
    mass = log_probs.logsumexp(-1)
    if settings.loss == "topk_renorm":
        log_probs = log_probs - mass[:, None]
        probs = log_probs.exp()
        return SparseTarget(ids, probs, (probs * log_probs).sum(-1), num_ids=num_ids)
    # Normalised again, after the rounding of a cache.
    total = torch.logaddexp(mass, log_rest)
    log_probs, log_rest = log_probs - total[:, None], log_rest - total
    probs, rest = log_probs.exp(), log_rest.exp()
    entropy = (probs * log_probs).sum(-1) + torch.xlogy(rest, rest)
    return SparseTarget(ids, probs, entropy, rest, num_ids)


def open_live_teacher(
    folder: Path, settings: DistillationSettings, compute: Compute, num_ids: int | None = None
) -> LiveTeacher:
    """Load a teacher, frozen, in the precision of the hardware.

    Args:
        folder: its checkpoint.
        settings: of the loss.
        compute: the student's device and precision.
        num_ids: the first tokens, which student and teacher share; the teacher's others are masked, as if they were
            sliced off its logits. All of the teacher's without it.

    Raises:
        ValueError: the teacher's own device does not exist here, or the loss asks for more entries than there are.
    """
    num_ids = min(num_ids or num_rows(folder), num_rows(folder))
    check_entries(settings, num_ids, num_dropped_ids(folder))
    place = teacher_compute(settings, compute)
    model = place.place(load_model(folder, place.dtype)).eval()
    nn.Module.requires_grad_(model, requires_grad=False)
    if settings.compile_teacher:
        model.base_model.compile()
    head = model.get_output_embeddings().weight[:num_ids].to(compute.device)
    dropped = dropped_head(folder) if settings.loss == "topk_tail" else None
    if dropped is not None:
        dropped = dropped.to(place.device, place.dtype)
    return LiveTeacher(model=model, settings=settings, device=compute.device, head=head, dropped=dropped)


def teacher_compute(settings: DistillationSettings, compute: Compute) -> Compute:
    """Return where the teacher runs: with the student, or on its own device in the precision that suits it.

    Raises:
        ValueError: there is no such device.
    """
    if settings.teacher_device == "same":
        return compute
    try:
        device = torch.device(settings.teacher_device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"teacher_device={settings.teacher_device!r} is not available here; use same or cpu"
        ) from error
    if device.type not in {"cpu", "cuda", "mps"}:
        raise ValueError(f"teacher_device={settings.teacher_device!r} must be same, cpu, mps, cuda or cuda:<number>")
    kind: Any = device.type
    return Compute(device, choose_compute(kind, "auto").precision)


def check_entries(settings: DistillationSettings, vocab_size: int, num_dropped: int) -> None:
    """Check that a loss asks for no more entries than there are, and leaves the student a tail where it needs one.

    Raises:
        ValueError: it does not.
    """
    if settings.loss.startswith("topk") and settings.top_k > vocab_size:
        raise ValueError(f"top_k={settings.top_k} must not exceed the vocabulary of {vocab_size} tokens")
    if settings.loss == "topk_tail" and num_dropped and settings.top_k == vocab_size:
        raise ValueError(
            f"top_k={settings.top_k} must be less than the vocabulary of {vocab_size} tokens: loss=topk_tail gives the "
            f"probability of the {num_dropped} ids that teacher.vocabulary dropped to those outside the top"
        )


def with_tail(teacher: Architecture, settings: DistillationSettings | None, num_dropped: int) -> Architecture:
    """Return a teacher whose head has all rows that a loss runs: `topk_tail` those of dropped ids, too."""
    tail = settings is not None and settings.loss == "topk_tail"
    return replace(teacher, vocab_size=teacher.vocab_size + num_dropped) if tail else teacher


def asked_architecture(folder: Path, settings: DistillationSettings | None) -> Architecture:
    """Return the architecture of a teacher's checkpoint, with the head that a loss runs."""
    return with_tail(read_architecture(folder), settings, num_dropped_ids(folder))


def teacher_beside(job: TrainingJob) -> Architecture | None:
    """Return the architecture of the teacher that runs beside the student of a job; None without one."""
    if job.distillation is None or job.distillation.teacher != "live":
        return None
    return asked_architecture(job.teacher_folder, job.distillation)


def num_rows(folder: Path) -> int:
    """Return the tokens that a model has logits of: those of its tokenizer, and often some that pad them."""
    return int(load_config(folder)["vocab_size"])


def cache_facts(teacher_folder: Path, corpus: PackedCorpus, length: int, settings: DistillationSettings) -> CacheFacts:
    """Return everything that decides the content of a cache: the teacher, the text and the entries."""
    return CacheFacts(
        **dict(cache_shape(settings, length, num_rows(teacher_folder))),
        teacher=fingerprint(teacher_folder),
        tokenizer=corpus.tokenizer_fingerprint,
        corpus=corpus.fingerprint,
        temperature=settings.temperature,
        seed=settings.sampling_seed if settings.loss == "sampled" else None,
        num_dropped_ids=num_dropped_ids(teacher_folder) if settings.loss == "topk_tail" else 0,
    )


def cache_shape(settings: DistillationSettings, length: int, vocab_size: int) -> CacheShape:
    """Return the facts of a cache that decide its size on disk."""
    sampled = settings.loss == "sampled"
    return CacheShape(
        sequence_length=length,
        vocab_size=vocab_size,
        entries="sampled" if sampled else "top_k",
        num_entries=settings.num_samples if sampled else settings.top_k,
    )


def open_cache(job: TrainingJob) -> TeacherCache:
    """Open the cache of a job.

    Raises:
        ValueError: there is none, or it is unfinished.
    """
    if job.cache_folder is None:
        raise ValueError(f"arm {job.arm} has teacher='cached': give cache_folder")
    return TeacherCache.open(job.cache_folder)


def open_teacher(job: TrainingJob, compute: Compute) -> Teacher:
    """Return the teacher of a job that `check_teacher` has passed."""
    settings = job.distillation
    assert settings is not None, "only a distillation has a teacher"
    if settings.teacher == "cached":
        return CachedTeacher(cache=open_cache(job), settings=settings)
    return open_live_teacher(job.teacher_folder, settings, compute, student_architecture(job).vocab_size)


def student_architecture(job: TrainingJob) -> Architecture:
    """Return what a job trains, layers in depth order."""
    if job.architecture is not None:
        return job.architecture
    assert job.model_folder is not None, "a job has a model or an architecture"
    return read_architecture(job.model_folder)
