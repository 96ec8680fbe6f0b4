"""Checkpoints: read, build, write, certify."""
