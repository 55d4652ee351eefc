"""Batches of any structure: moved, counted and cut; and what a model returned for one."""
