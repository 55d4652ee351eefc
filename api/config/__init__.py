"""Run configuration: files, overrides, and the objects that they describe."""
