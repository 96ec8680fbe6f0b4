"""A teacher with part of its vocabulary: the tokens that the text of a study uses most."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from budwood.corpus.counting import count_training_tokens
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.teacher import FetchedTeacher
from budwood.models.vocabulary import kept_ids, trim_checkpoint
from budwood.study.stage import Stage, Work, Workspace


@dataclass(frozen=True, kw_only=True)
class TrimVocabulary(Stage[Checkpoint]):
    """Keep the most frequent tokens, and cut the tokenizer, the embedding and the head to them."""

    name: ClassVar[str] = "vocabulary"

    teacher: Checkpoint
    counts: Tensor
    """[ids] how often the training text has each token."""
    size: int
    """Ids to keep."""

    def run(self, work: Work) -> Checkpoint:
        """Write the smaller teacher.

        Raises:
            ValueError: the tokenizer cannot be rewritten, or the size does not fit it.
        """
        kept = kept_ids(self.teacher, self.teacher.load_tokenizer(), self.counts.numpy(), self.size)
        return Checkpoint.open(trim_checkpoint(self.teacher, kept, work.folder / "teacher"))


def trim(
    fetched: FetchedTeacher, size: int | None, corpus: CorpusSettings, workspace: Workspace, root: Path
) -> FetchedTeacher:
    """Return a teacher with as many of the ids that its training text has most; the whole teacher without a size.

    Raises:
        ValueError: a text cannot be read, the tokenizer cannot be rewritten, or the size does not fit it.
    """
    if size is None:
        return fetched
    teacher = fetched.checkpoint
    counts = count_training_tokens(corpus, teacher.load_tokenizer(), root)
    stage = TrimVocabulary(teacher=teacher, counts=torch.from_numpy(counts), size=size)
    return replace(fetched, checkpoint=workspace.finish(stage))
