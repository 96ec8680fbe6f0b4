"""The tiny teachers and children of `children`."""

from children import *  # noqa: F403 - fixtures are found by their names
