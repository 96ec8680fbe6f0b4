"""Plain data and files: what stages hand on, and how it is kept."""
