"""Wiring: nodes call the domain, pipelines connect nodes."""
