"""What can be searched, before anything expensive."""
