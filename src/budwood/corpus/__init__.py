"""Text: sources, splits, and one memory-mapped file of tokens."""
