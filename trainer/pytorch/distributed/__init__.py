"""Distributed training in PyTorch."""
