"""torch_xla.debug.metrics: the report of what was compiled and run."""

from ..contract import state


def metrics_report():
    return f"Counter: MarkStep\n  Value: {state.calls.count('sync')}"
