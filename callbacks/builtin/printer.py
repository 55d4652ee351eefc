"""Printer: log records as plain lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from .._util.streams import as_far_as_possible
from ..callback import TrainerCallback
from ..metrics import SPEEDS
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role

HIDDEN = ("total_flos", "step", "epoch")

ESCAPES = {ord(character): repr(character)[1:-1] for character in "\n\r\x1b"}
"""What stands for characters that would break a line, or steer the terminal."""

LONGEST = 100
"""The longest text of a value in a line, in characters; a longer one is cut."""


class PrinterCallback(TrainerCallback):
    """Print the header of a run, and every log record as one line.

    Args:
        runtimes: Whether the lines of evaluations have their run time and speed; the record has them in any case.
    """

    role: Role = "observer"

    def __init__(self, *, runtimes: bool = False) -> None:
        self.runtimes = runtimes

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            print_header(kwargs.get("header"))

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if state.is_local_process_zero and logs:
            print_text(format_logs(logs, state.global_step, runtimes=self.runtimes))


def print_header(header: str | None) -> None:
    """Print the header of a run, if there is one: a replayed run has none."""
    if header:
        print_text(header)


def print_text(text: str) -> None:
    """Print to the standard output, if there is one, in the characters that it can show."""
    if sys.stdout is not None:
        with as_far_as_possible(sys.stdout):
            print(printable(text, sys.stdout))
            flush(sys.stdout)


def printable(text: str, stream: Any) -> str:
    """Return ``text`` with an escape sequence for each character that the encoding of ``stream`` lacks.

    Example:
        >>> import io
        >>> print(printable("5 \u20ac", io.TextIOWrapper(io.BytesIO(), encoding="ascii")))
        5 \\u20ac
    """
    if text.isascii():
        return text
    encoding = getattr(stream, "encoding", None)
    try:
        encoded = text.encode(encoding if isinstance(encoding, str) else "utf-8", "backslashreplace")
        return encoded.decode(encoding if isinstance(encoding, str) else "utf-8")
    except LookupError:  # of an object in the place of a stream, which says something of its own
        return text


def flush(stream: Any) -> None:
    """Flush a stream that can be flushed; one in a script's place of stdout may have no method but ``write``."""
    if hasattr(stream, "flush"):
        stream.flush()


def format_logs(logs: Mapping[str, Any], step: int, *, runtimes: bool = False) -> str:
    """Return a log record as one line: step, epoch, and the values to four digits; long texts are cut.

    Args:
        logs: The record.
        step: Its step, where it does not have it itself.
        runtimes: Whether run times and speeds of evaluations are shown.

    Example:
        >>> format_logs({"loss": 0.123456, "learning_rate": 5e-05, "epoch": 0.5, "step": 10}, step=10)
        'step 10, epoch 0.5: loss 0.1235, learning_rate 5e-05'
        >>> format_logs({"eval_loss": 0.25, "eval_runtime": 1.5, "eval_model_preparation_time": 0.1}, step=10)
        'step 10: eval_loss 0.25'
    """
    if not runtimes:
        is_shown = {key: key.startswith("train_") or not key.endswith(SPEEDS) for key in logs}
        logs = {key: value for key, value in logs.items() if is_shown[key]} if any(is_shown.values()) else logs
    epoch = f", epoch {logs['epoch']:.4g}" if isinstance(logs.get("epoch"), int | float) else ""
    values = ", ".join(f"{key} {_short(value)}" for key, value in logs.items() if key not in HIDDEN)
    return f"step {logs.get('step', step)}{epoch}: {values}".translate(ESCAPES)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
