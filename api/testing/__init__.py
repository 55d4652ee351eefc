"""Tools for testing callbacks: a conformance check, and tiny trainers of either framework."""

from trackside.testing.conformance import *  # noqa: F403
