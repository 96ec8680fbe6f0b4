"""Choose the space of every bin by its probes."""
