"""Learning-rate schedules, without a framework."""
