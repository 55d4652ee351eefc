"""Data loading in PyTorch."""
