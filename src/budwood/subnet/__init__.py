"""From a teacher's weights to a child's weights."""
