"""What a run measures, and the lines in which it shows itself."""
