"""The trainer: the loop, arguments, schedule and checkpoints, without any framework."""
