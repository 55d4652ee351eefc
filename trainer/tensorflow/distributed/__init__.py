"""Distributed training in TensorFlow."""
