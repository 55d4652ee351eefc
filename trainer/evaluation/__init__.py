"""Evaluation and prediction: the loop, and the collection of outputs, without a framework."""
