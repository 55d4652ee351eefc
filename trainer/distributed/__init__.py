"""Launchers, ranks and what ranks decide together, without a framework."""
