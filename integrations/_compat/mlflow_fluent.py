"""MLflow's functions for one global run: the experiment that was chosen for them."""

from __future__ import annotations


def chosen_experiment() -> str | None:
    """Return the id of the experiment of `mlflow.set_experiment`; None if it was not called, or cannot be told."""
    try:
        from mlflow.tracking import fluent

        chosen = fluent._active_experiment_id
    except (ImportError, AttributeError):
        return None
    return None if chosen is None else str(chosen)
