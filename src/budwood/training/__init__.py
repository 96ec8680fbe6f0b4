"""Train a child, alone or under its teacher."""
