"""The pretrained model, and models by their sizes."""

from typing import Self

from pydantic import Field, model_validator

from budwood.arch.family import architecture_from_config
from budwood.arch.spec import Architecture
from budwood.models.teacher import TeacherSource, describe_teacher
from budwood.records.strict import Strict


class ModelSizes(Strict):
    """A model of equal layers by its sizes, in the words of its config.json."""

    model_type: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    """As many as heads where it is empty."""
    head_dim: int | None = Field(default=None, gt=0)
    """What fills the hidden size where it is empty."""
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.architecture()
        return self

    def architecture(self) -> Architecture:
        """Return the architecture.

        Raises:
            ValueError: the family is not supported, or a size is impossible.
        """
        return architecture_from_config(self.model_dump(exclude_none=True))


class TeacherParameters(Strict):
    """The pretrained model; see `budwood.models.teacher.TeacherSource`."""

    model: str | None = None
    revision: str | None = None
    random: dict[str, bool | int | float | str] | None = None
    architecture: ModelSizes | None = None
    """What `model` is known to be, so that a study can be planned without its configuration. A run checks it."""
    trust_remote_code: bool = False
    license: str = "unknown"
    attribution: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self.source()
        return self

    def source(self) -> TeacherSource:
        """Return the teacher's source."""
        return TeacherSource(**self.model_dump(exclude={"architecture"}))

    def describe(self) -> Architecture:
        """Return the teacher's architecture without reading weights: as stated, or by its configuration.

        Raises:
            ValueError: the source does not exist, or is of an unsupported family.
        """
        return self.architecture.architecture() if self.architecture else describe_teacher(self.source())

    @property
    def bytes_per_parameter(self) -> int:
        """What a parameter takes in the teacher's files: models are published in 16 bits, conversions are in 32."""
        return 4 if self.random or str(self.model).endswith(".gguf") else 2
