"""Weights of a PyTorch model in a checkpoint: names, files, fitting into a model, and exports for other libraries."""
