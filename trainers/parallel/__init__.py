"""Several processes: who writes, and how a model is cut into slices."""
