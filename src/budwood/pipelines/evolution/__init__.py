"""Search every variant and choose its winner."""
