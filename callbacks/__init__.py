"""Callbacks: events, state, the signal bus and the built-in callbacks. Import their public names from ``trackside``."""
