"""Partitioning of data over epochs, batches and ranks, without a framework."""
