"""Batches of any structure: moved, counted and cut."""
