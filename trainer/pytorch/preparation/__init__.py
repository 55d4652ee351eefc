"""What arguments change about a model before a run."""
