"""The checkpoint that a run begins with."""
