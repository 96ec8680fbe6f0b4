"""How work reports its metrics while it runs."""

from collections.abc import Callable, Mapping

Track = Callable[[Mapping[str, float], int], None]
"""Takes metrics and the step they belong to; a function of a module, so that other processes can import it."""
