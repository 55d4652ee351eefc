"""Checkpoints: writing, verifying, finding and removing them, without a framework."""
