"""Cut the winner out as a checkpoint."""
