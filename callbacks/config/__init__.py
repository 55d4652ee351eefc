"""Callbacks that are listed in a config file."""
