"""Train every arm of every variant."""
