"""Encoding of control flags and stop signals as numbers that are summed over the ranks."""

from __future__ import annotations

from collections.abc import Sequence

from trackside.callbacks.state import DECISIONS, TrainerControl

from ..stop_signals import STOP_SIGNALS

SIGNAL_COUNTS = {signal: [float(signal == name) for name in STOP_SIGNALS] for signal in (None, *STOP_SIGNALS)}
"""Encoding of a rank's stop signal, or None; `signal_in` decodes the sums over the ranks."""


def control_counts(control: TrainerControl, stop_signal: str | None, rank: int) -> list[float]:
    """Return rank 0's decisions and any signal as numbers; `take_control` decodes their sums over the ranks."""
    decisions = [float(getattr(control, name)) if rank == 0 else 0.0 for name in DECISIONS]
    return [*decisions, *SIGNAL_COUNTS[stop_signal]]


def take_control(control: TrainerControl, sums: Sequence[float]) -> str | None:
    """Set the decisions of rank 0 on ``control``; return a stop signal that any rank received."""
    for name, value in zip(DECISIONS, sums, strict=False):
        setattr(control, name, float(value) if name == "rate_factor" else bool(value))
    return signal_in(sums[len(DECISIONS) :])


def signal_in(sums: Sequence[float]) -> str | None:
    """Return a stop signal that any rank received, from the sums of `SIGNAL_COUNTS`; None without one."""
    return next((name for name, count in zip(STOP_SIGNALS, sums, strict=True) if count), None)
