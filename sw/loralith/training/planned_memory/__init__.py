"""Memory of a training step of a model of any size, planned and not run."""
