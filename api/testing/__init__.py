"""Tools for testing callbacks: a conformance check, and tiny trainers of both frameworks."""

from trackside.testing.conformance import ConformanceError, check_callback
from trackside.testing.tiny_trainer import accuracy, installed_frameworks, tiny_trainer, weights_of

__all__ = ["ConformanceError", "accuracy", "check_callback", "installed_frameworks", "tiny_trainer", "weights_of"]
