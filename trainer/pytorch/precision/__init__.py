"""Mixed precision in PyTorch."""
