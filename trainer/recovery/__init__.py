"""Recovery from bad updates: skipped updates, the way back to a checkpoint, and lower learning rates."""
