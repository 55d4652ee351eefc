"""Precision in TensorFlow."""
