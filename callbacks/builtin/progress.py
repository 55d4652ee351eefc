"""Progress bars for a terminal, a pipe and a notebook."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from .._util.streams import as_far_as_possible
from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role
from .printer import flush, format_logs, print_header, printable

PIPE_INTERVAL_S = 10.0
"""The shortest time between two lines of a bar where the output is not a terminal."""


class ProgressCallback(TrainerCallback):
    """Show one bar for training, and below it one for an evaluation or a prediction while it lasts.

    In a pipe, a file or a terminal that cannot move its cursor (``TERM=dumb``) the bars become plain lines, one every
    ten seconds. Log records are printed above the bar, and first of all the header of the run; the bar has the loss of
    the newest one. Where both standard streams are terminals, all of it goes to the standard output, so that lines and
    bars that meet on one screen keep their order.

    Args:
        runtimes: Whether the lines of evaluations have their run time and speed; the record has them in any case.
    """

    role: Role = "observer"

    def __init__(self, *, runtimes: bool = False) -> None:
        self.runtimes = runtimes
        self.training_bar: Any = None
        self.prediction_bar: Any = None
        self._loader: Any = None

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._close()
        if state.is_world_process_zero:
            print_header(kwargs.get("header"))
            self.training_bar = make_bar("train", total=state.max_steps, initial=state.global_step)

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        bar = self.training_bar
        if bar is not None:
            bar.total = state.max_steps
            bar.update(state.global_step - bar.n)

    def on_prediction_step(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        bar, loader = self.prediction_bar, kwargs.get("eval_dataloader")
        # one that is full, or of another loader, is left over from an evaluation that did not come to its end
        if bar is None or loader is not self._loader or bar.n == bar.total:
            self._close_prediction()
            limit = getattr(kwargs.get("evaluation_batch"), "limit", None)  # not in a replay
            bar = make_bar(
                "evaluate", total=length_of(loader, limit), leave=self.training_bar is None, delay_in_pipe=True
            )
            self.prediction_bar, self._loader = bar, loader
        bar.update(1)

    def on_evaluate(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._close_prediction()

    on_predict = on_evaluate

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and sys.stdout is not None:
            if isinstance(loss := logs.get("loss"), int | float):
                self.training_bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            line = printable(format_logs(logs, state.global_step, runtimes=self.runtimes), sys.stdout)
            with as_far_as_possible(sys.stdout):
                self.training_bar.write(line, file=sys.stdout)
                flush(sys.stdout)

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._close()

    on_exception = on_train_end

    def undo(self, args: Args, state: TrainerState, **kwargs: Any) -> None:
        """Close the bars when the callback is removed within a run."""
        self._close()

    def _close(self) -> None:
        self._close_prediction()
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None

    def _close_prediction(self) -> None:
        if self.prediction_bar is not None:
            self.prediction_bar.close()
        self.prediction_bar = self._loader = None


def make_bar(
    title: str, *, total: int | None, initial: int = 0, leave: bool = True, delay_in_pipe: bool = False
) -> Any:
    """Return a tqdm bar that suits the standard error stream: a terminal, a notebook or a pipe.

    Where the standard output is a terminal too, it is on that one.
    """
    from tqdm.auto import tqdm  # here, since it takes 50 ms

    options: dict[str, Any] = {"desc": title, "total": total, "initial": initial, "leave": leave}
    if any(cls.__name__ == "tqdm_notebook" for cls in tqdm.__mro__):
        return tqdm(**options)
    if sys.stderr is None:  # pythonw, some services
        return tqdm(**options, disable=True)
    columns = columns_of(sys.stderr)
    if columns is not None:
        width = {"dynamic_ncols": True} if columns else {"ncols": 80}
        return tqdm(**options, **width, file=sys.stderr if columns_of(sys.stdout) is None else sys.stdout)
    return tqdm(
        **options,
        file=LineFile(sys.stderr),
        ncols=100,
        mininterval=PIPE_INTERVAL_S,
        maxinterval=PIPE_INTERVAL_S,
        delay=PIPE_INTERVAL_S if delay_in_pipe else 0,
    )


def columns_of(stream: Any) -> int | None:
    """Return the width of a terminal, 0 if it is not known; None for what is not a terminal.

    Consoles of editors say that they are terminals and have no file behind them; an object that writes to two places
    may lack any method but ``write``. One that cannot move its cursor (``TERM=dumb``) is not one.
    """
    try:
        if os.environ.get("TERM") == "dumb" or not stream.isatty():
            return None
    except (AttributeError, ValueError):  # no such method, or closed
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (AttributeError, OSError, ValueError):
        return 0


def length_of(loader: Any, limit: int | None = None) -> int | None:
    """Return the number of batches of ``loader``, ``limit`` at most; None if it is not known."""
    try:
        length = len(loader)
    except (TypeError, NotImplementedError, AttributeError):
        return None
    return length if limit is None else min(length, limit)


class LineFile:
    """A text stream that drops the cursor movements of a bar and writes plain lines."""

    CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Write ``text`` as a line, unless it holds nothing but cursor movements."""
        line = self.CONTROL.sub("", text).strip()
        if line:
            with as_far_as_possible(self.stream):
                self.stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the stream, if it can be flushed."""
        with as_far_as_possible(self.stream):
            flush(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
