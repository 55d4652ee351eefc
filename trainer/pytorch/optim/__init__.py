"""Optimizers in PyTorch."""
