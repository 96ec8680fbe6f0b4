"""On what models are measured, and where they run."""

from pydantic import Field

from budwood.models.device import Compute, choose_compute
from budwood.models.settings import DeviceName, Precision
from budwood.records.strict import Strict


class MeasurementParameters(Strict):
    """On which sequences of text models are measured, and where they run; every split serves one purpose."""

    length: int = Field(gt=0)
    """Tokens predicted per sequence."""
    calibration: int = Field(gt=0)
    """Sequences behind the importance scores."""
    elimination: int = Field(default=4, gt=0)
    """The most of these on which layers are left out one by one."""
    selection: int = Field(gt=0)
    """Sequences on which all candidates of a search are compared."""
    choice: int = Field(gt=0)
    """Sequences on which the winner is chosen among the finalists."""
    validation: int = Field(gt=0)
    """Sequences of each source for the reported losses."""
    heldout: int = Field(gt=0)
    """Validation sequences behind the curves; also of every other split for the teacher's loss there."""
    batch_size: int = Field(default=4, gt=0)
    """Sequences of one forward pass."""
    device: DeviceName = "auto"
    precision: Precision = "auto"

    @property
    def searched(self) -> dict[str, int]:
        """Sequences of each split that a search works with, of all sources together."""
        return {"calibration": self.calibration, "selection": self.selection, "choice": self.choice}

    @property
    def reported(self) -> dict[str, int]:
        """Sequences of every source of each split that losses are reported for."""
        return dict.fromkeys(("train", *self.searched), self.heldout) | {"validation": self.validation}

    def compute(self) -> Compute:
        """Return the device and precision of this machine."""
        return choose_compute(self.device, self.precision)
