"""Short runs and measurements before a long run, without a framework."""
