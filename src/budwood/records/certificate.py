"""The certificate of an export: what it is, where it came from, and what anybody can compute again."""

from typing import Any

from budwood.records.strict import Strict


class LogitProbe(Strict):
    """Tokens, and some of the logits that the child in memory gave them."""

    input_ids: tuple[int, ...]
    columns: tuple[int, ...]
    """Entries of the vocabulary whose logits are given."""
    logits: tuple[tuple[float, ...], ...]
    """[T, columns] float32."""


class Certificate(Strict):
    """Proof that an exported folder is the child that the search found; all comparisons are in float32."""

    num_parameters: int
    num_parameters_closed_form: int
    parameter_bin: tuple[int, int]
    largest_logit_difference: float
    """Between the child in memory and the folder loaded anew by plain transformers, as a share of the largest logit
    where that is above one."""
    tolerance: float
    native: bool
    """Whether the model is of a stock class."""
    class_name: str
    fingerprint: str
    teacher: str
    teacher_revision: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    ordering: str
    rope: str
    compensation: tuple[str, ...]
    """Names of the corrections."""
    kept_channels: tuple[int, ...]
    """For every channel of the residual stream, the teacher's."""
    kept_layers: tuple[int, ...]
    """For every layer in depth order, the teacher's."""
    probes: tuple[LogitProbe, ...]

    def summary(self) -> dict[str, Any]:
        """Return the facts that fit in a table."""
        names = {"num_parameters", "largest_logit_difference", "native", "class_name", "fingerprint"}
        return self.model_dump(include=names)
