"""Learning-rate finder: a short run with a rising rate, after which everything is as it was.

Source:
    Smith (2017), arXiv:1506.01186.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks._util.display import Report
from trackside.callbacks._util.imports import require_package
from trackside.callbacks.errors import ArgumentError, TracksideValueError

from ..engine import Engine
from .probe import probe_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

SMOOTHING = 0.9
"""What the running mean of the losses keeps of itself."""

DIVERGED = 4.0
"""The search ends where the smoothed loss is this many times the lowest so far."""


@dataclass(frozen=True)
class RateSearch:
    """What a search for a learning rate found.

    Attributes:
        rates: The learning rate of each update, rising.
        losses: The loss of each update, before the update.
        smoothed: The losses, smoothed.
        suggestion: The rate at which the loss falls fastest; None if it does not fall.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None

    def __str__(self) -> str:
        span = f"{len(self.rates)} updates with rates from {self.rates[0]:.3g} to {self.rates[-1]:.3g}"
        if self.suggestion is None:
            return f"no learning rate: the loss does not fall in {span}"
        lowest = self.rates[int(np.argmin(self.smoothed))]
        falls = f"the loss falls fastest there, and is lowest at {lowest:.3g}"
        return f"learning_rate={self.suggestion:.3g}: {falls}, in {span}"

    def _repr_html_(self) -> str:
        return Report(self)._repr_html_()

    def draw(self, path: str | Path) -> Path:
        """Draw the losses over the rates into a file, and return its path.

        Raises:
            MissingPackageError: If matplotlib is not installed.
        """
        require_package("matplotlib", "the picture of find_learning_rate", extra="plot")
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        from matplotlib.figure import Figure  # pyplot looks for a display and keeps figures in memory

        path, figure = Path(path).expanduser(), Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="learning rate", ylabel="loss", xscale="log")
        axes.plot(self.rates, self.losses, "C0-", alpha=0.3, label="loss")
        axes.plot(self.rates, self.smoothed, "C0-", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggestion: {self.suggestion:.3g}")
        axes.grid(alpha=0.3)
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        return path


def find_learning_rate(trainer: Any, engine: Engine, min_rate: float, max_rate: float, steps: int) -> RateSearch:
    """Train a copy of a trainer, on the same model, with a rate that rises from update to update.

    Args:
        engine: The engine of ``trainer``.
        min_rate, max_rate: The first and the last rate.
        steps: Number of updates.
    """
    check_range(min_rate, max_rate, steps)
    factor = (max_rate / min_rate) ** (1 / (steps - 1))
    with probe_of(trainer, engine, "find_learning_rate()", max_steps=steps, learning_rate=min_rate) as (probe, own):

        def begin(_: object, **kwargs: object) -> None:
            rate, made = own.sandbox.rate_of(probe.optimizer), own.made
            assert made is not None  # the model is prepared
            problem = made.scale_rates(min_rate / rate) if rate != min_rate else None
            if problem:
                raise TracksideValueError(f"find_learning_rate() cannot set the rate: {problem}")

        def rise(_: object, **kwargs: object) -> None:
            probe.control.scale_rates(factor, "find_learning_rate()")

        def stop(_: object, **kwargs: object) -> None:
            losses = [record["loss"] for record in probe.state.log_history if "loss" in record]
            if not math.isfinite(losses[-1]) or (near := smoothed(losses))[-1] > DIVERGED * max(min(near), 1e-12):
                probe.control.stop("the loss has grown too much")

        for event, function in (("on_train_begin", begin), ("on_step_end", rise), ("on_log", stop)):
            probe.on(event)(function)
        probe.train()
        records = [record for record in probe.state.log_history if "loss" in record]
    points = [(record["learning_rate"], record["loss"]) for record in records if math.isfinite(record["loss"])]
    rates, losses = [rate for rate, _ in points], [loss for _, loss in points]
    if len(points) < 2:
        raise TracksideValueError(
            f"the loss is not finite after {len(records)} updates, with the lowest rate {min_rate:g}"
        )
    return RateSearch(rates, losses, smoothed(losses), suggested(rates, losses))


def check_range(min_rate: float, max_rate: float, steps: int) -> None:
    """Check the range of a search.

    Raises:
        ArgumentError: If a value is not allowed.
    """
    if not 0 < min_rate < math.inf:
        raise ArgumentError("min_rate", min_rate, "above 0, and finite")
    if not min_rate < max_rate < math.inf:
        raise ArgumentError("max_rate", max_rate, f"above min_rate={min_rate:g}, and finite")
    if steps < 10:
        raise ArgumentError("steps", steps, "at least 10")


def smoothed(losses: list[float]) -> list[float]:
    """Return the running mean of losses in which the latest count most.

    Example:
        >>> smoothed([1.0, 1.0, 1.0])
        [1.0, 1.0, 1.0]
    """
    found, total = [], 0.0
    for count, loss in enumerate(losses, start=1):
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        found.append(round(total / (1 - SMOOTHING**count), 12))
    return found


def suggested(rates: list[float], losses: list[float]) -> float | None:
    """Return the rate around which the losses fall fastest over the logarithm of the rate; None if they fall nowhere.

    The slope at a rate is that of a line through a fifth of the losses, those around it, up to the lowest smoothed one.

    Example:
        >>> suggested([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 2.0, 1.9, 1.0, 3.0])
        0.01
    """
    lowest, half = int(np.argmin(smoothed(losses))), max(1, len(losses) // 10)
    logs, slopes = np.log(rates), {}
    for middle in range(half, lowest + 1 - half):
        around = slice(middle - half, middle + half + 1)
        slopes[middle] = float(np.polyfit(logs[around], losses[around], 1)[0])
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return rates[steepest] if steepest is not None and slopes[steepest] < 0 else None
