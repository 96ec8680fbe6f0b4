"""Train every (bin, space) on few tokens."""
