"""The tiny teachers and children of `children`, and cuts as corrections make them."""

import pytest
from children import *  # noqa: F403 - fixtures are found by their names

from budwood.subnet import compensate


@pytest.fixture
def unbalanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave values and output weights as corrections make them."""
    monkeypatch.setattr(compensate, "balanced", lambda parts, _: parts)
