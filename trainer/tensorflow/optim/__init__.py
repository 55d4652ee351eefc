"""Optimizers in TensorFlow."""
