"""Tools for testing callbacks: conformance checks of callbacks and trackers, and tiny trainers of both frameworks."""

from trackside.testing.conformance import check_callback
from trackside.testing.findings import ConformanceError
from trackside.testing.tiny_trainer import accuracy, installed_frameworks, tiny_trainer, weights_of
from trackside.testing.tracker_check import TrackedRun, check_tracker

__all__ = [
    "ConformanceError",
    "TrackedRun",
    "accuracy",
    "check_callback",
    "check_tracker",
    "installed_frameworks",
    "tiny_trainer",
    "weights_of",
]
