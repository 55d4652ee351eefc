"""A trainer whose evaluation generates."""
