"""Measure all arms on the same held-out text."""
