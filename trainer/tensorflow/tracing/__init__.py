"""Tracing of Python functions into graphs of TensorFlow."""
