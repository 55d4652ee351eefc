"""Helpers without any knowledge of training: imports and atomic files."""
