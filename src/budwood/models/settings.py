"""Settings of models; imports no torch."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from budwood.arch.config import architecture_from_config
from budwood.arch.spec import Architecture
from budwood.records.names import Variant
from budwood.records.paths import resolve_path
from budwood.records.strict import Strict

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Rope = Literal["preserve", "rebuild"]
"""`preserve` keeps every pair's frequency and the attention scale; `rebuild` gives the kept dimensions the frequencies
of a model of the smaller size, as the paper's reference code does."""
Storage = Literal["f32", "f16", "bf16"]
"""Number format of the matrices of a GGUF file; vectors are float32. llama.cpp's own tools make smaller ones of it."""


class ServingSettings(Strict):
    """In which forms an export is written, and where it is tried."""

    gguf: Storage | None = None
    """Write `model.gguf` too, where llama.cpp has a form for the sub-network."""
    engines: Path | None = None
    """Folder of environments, as `make engines` makes one; every export is tried in the engines that are there. A
    relative path begins at the root of the project."""

    def rooted(self, root: Path) -> Self:
        """Return the settings with the folder of engines spelt out."""
        engines = self.engines and Path(resolve_path(str(self.engines), root))
        return self.model_copy(update={"engines": engines})


class PushSettings(Strict):
    """Where an export is published."""

    repository: str
    """Id on the Hub, `owner/name`; `{bin}` and `{space}` in it stand for those of the export."""
    model: Literal["subnet", "subnet_init", "distilled"] = "subnet"
    """Which model of a variant: the sub-network as it was cut, or an arm that was trained from it."""
    private: bool = True
    """Whether a repository that is made is private."""
    dry_run: bool = True
    """Only report what would be uploaded."""
    revision: str | None = None
    """Branch; it is made where there is none."""

    @field_validator("repository")
    @classmethod
    def _names_can_be_filled_in(cls, repository: str) -> str:
        try:
            repository.format(**Variant("", "")._asdict())
        except (AttributeError, LookupError, ValueError):
            raise ValueError("only {bin} and {space} can be in braces") from None
        return repository

    def of(self, variant: Variant) -> Self:
        """Return the settings for the export of a variant."""
        return self.model_copy(update={"repository": self.repository.format(**variant._asdict())})


class ModelSizes(Strict):
    """A model of equal layers by its sizes, in the words of its config.json."""

    model_type: str
    """Family, such as `llama` or `gpt_neox`."""
    vocab_size: int = Field(gt=0)
    """Rows of the embedding."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    intermediate_size: int = Field(gt=0)
    """Neurons of an MLP."""
    num_hidden_layers: int = Field(gt=0)
    """Decoder layers."""
    num_attention_heads: int = Field(gt=0)
    """Query heads of a layer."""
    num_key_value_heads: int | None = Field(default=None, gt=0)
    """As many as heads where it is empty."""
    head_dim: int | None = Field(default=None, gt=0)
    """What fills the hidden size where it is empty."""
    tie_word_embeddings: bool = False
    """Whether the output head is the embedding."""
    attention_bias: bool | None = None
    """Whether attention has biases, in families whose config says so."""
    mlp_bias: bool | None = None
    """Whether MLPs have biases, in families whose config says so."""

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


class TeacherSettings(Strict):
    """Where the pretrained model comes from: exactly one of `model`, `parts` and `random`."""

    model: str | None = None
    """A hub id, a checkpoint folder, a GGUF file (of Llama, Mistral, Qwen2, Qwen3, Gemma 2 or Gemma 3), or
    `package://<import name>/<file>` inside an installed package. A relative path begins at the root of the project."""
    parts: tuple[str, ...] = ()
    """Pieces of a GGUF file, in order, each named as a file of `model` is. They are joined in the user's cache."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of the file that `parts` make up, which need it."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    random: dict[str, bool | int | float | str] | None = None
    """Configuration of a model with random weights and a byte tokenizer, for trials without any download; a Llama where
    `model_type` names no other family."""
    seed: int = 42
    """Of a random model."""
    architecture: ModelSizes | None = None
    """What `model` is known to be, so that a study can be planned without its configuration. A run checks it."""
    vocabulary: int | None = Field(default=None, gt=0)
    """Ids to keep of the vocabulary: special tokens, bytes, and the most frequent tokens of the training text. The
    tokenizer is rewritten, the embedding and the head are cut; everything after that knows only the smaller teacher,
    whose size the fractions of bins refer to; the tail of `loss: topk_tail` has the ids that were dropped. Null keeps
    all. Losses per token of different vocabularies do not compare, bits per byte do."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint, once, to bring its weights and tokenizer into stock classes."""
    license: str = "unknown"
    """Recorded, and written into every model card."""
    attribution: str = ""
    """Whom a model card names as the source."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.model is None, not self.parts, self.random is None].count(False) != 1:
            raise ValueError("teacher: give exactly one of `model`, `parts` and `random`")
        if bool(self.parts) != (self.sha256 is not None):
            raise ValueError("teacher: `parts` and `sha256` go together; give the hash of the joined file")
        return self

    @property
    def bytes_per_parameter(self) -> int:
        """What a parameter takes in the files: models are published in 16 bits, conversions are in 32."""
        return 4 if self.random or self.parts or str(self.model).endswith(".gguf") else 2
