"""The signal bus: attaching callbacks, ordering and calling them, and what happens when one fails."""
