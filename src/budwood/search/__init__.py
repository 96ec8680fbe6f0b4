"""Choose architectures; knows no tensor."""
