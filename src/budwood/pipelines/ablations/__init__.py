"""The paper's ablations, each a pipeline of its own."""
