"""What belongs to a variant."""

from typing import Self

from budwood.records.names import SHARED, Variant
from budwood.records.strict import Strict


class Placed(Strict):
    """A record of a variant; `bin` and `space` are empty where it belongs to none, as of the teacher."""

    bin: str = SHARED
    space: str = SHARED

    @property
    def variant(self) -> Variant:
        """The bin and the space."""
        return Variant(self.bin, self.space)

    def at(self, variant: Variant) -> Self:
        """Return the record as one of a variant."""
        return self.model_copy(update=variant._asdict())
