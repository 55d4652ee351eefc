"""Integrations with experiment trackers and other tools, one module for each; a tool is imported only when used."""
