"""The signal bus: attaching callbacks, their order, calling them, and what happens when they fail."""
