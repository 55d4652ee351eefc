"""Launchers and ranks, without a framework."""
