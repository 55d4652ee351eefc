"""Launchers, ranks and collectives, without a framework."""
