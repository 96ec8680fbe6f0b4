"""What models answer, and how fast they run."""

from budwood.records.cost import Cost
from budwood.records.placed import Placed
from budwood.records.strict import Strict


class Metric(Strict):
    """A number with its standard error, where the harness gives one."""

    value: float
    standard_error: float | None


class Charged(Strict):
    """A measurement and what it cost."""

    tokens: int
    flops: float
    seconds: float

    @property
    def cost(self) -> Cost:
        """As an entry of the ledger."""
        return Cost(stage="evaluation", tokens=self.tokens, flops=self.flops, seconds=self.seconds)


class TaskAnswers(Metric, Charged):
    """What one model answers in one task or group of tasks."""

    task: str
    version: float | str | None
    num_fewshot: int
    metric: str
    num_questions: int
    num_cut: int
    """Questions that were longer than the model's positions and lost their beginning."""
    chance: float | None
    """What guessing gets right, in a multiple choice."""
    metrics: dict[str, Metric]
    answers: list[float] | None
    """The metric of every question, the same questions for all models; None where it is no mean over questions."""


class Downstream(Placed):
    """What one model answers; `bin` and `space` are empty for the teacher."""

    model: str
    harness: str
    device: str
    precision: str
    limit: int | None
    tasks: tuple[TaskAnswers, ...]


class Sample(Placed):
    """How one model continues a held-out prompt; `bin` and `space` are empty for the teacher."""

    model: str
    prompt: str
    text: str
    ids: tuple[int, ...] = ()
    """Tokens that the model wrote."""
    repetition: float = 0.0
    """Share of its sequences of four tokens that it had written before (Welleck et al., 2020: rep-4)."""
    distinct: float = 1.0
    """Share of different ones among its pairs of tokens (Li et al., 2016: distinct-2)."""
    agreement: float | None = None
    """Share of the teacher's tokens that are the model's likeliest too, each after the teacher's before it; None for
    the teacher."""


class ModelSpeed(Strict):
    """Times of one model by repeat, and its memory."""

    num_parameters: int
    prefill_seconds: list[float]
    """Of the whole batch."""
    decode_seconds: list[float]
    """Of a token of every sequence."""
    weight_bytes: int
    working_bytes: int | None
    """The most that torch held beside the weights; None where it does not say."""
    kv_bytes_per_token: int


class Efficiency(Placed, Charged):
    """How fast the teacher and the sub-network of a variant are, measured in turns."""

    prompt_tokens: int
    new_tokens: int
    batch_size: int
    device: str
    precision: str
    threads: int
    torch: str
    models: dict[str, ModelSpeed]
