"""Commands that show a run as a page."""
