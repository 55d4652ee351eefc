"""Optimizers and schedules, without a framework: their choice, those of the user, resuming, learning rates."""
