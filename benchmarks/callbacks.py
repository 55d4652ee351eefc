"""Microseconds that callbacks add to a step: those that hear on_step_end, and those that do not.

    python benchmarks/callbacks.py [--callbacks 100] [--steps 20] [--rounds 400]

on_step_begin and on_step_end are sent as the loop sends them, by a trainer's own dispatcher, to as many callbacks,
whose methods do nothing. The first row has none of them. The times are the lowest of the processor's over the rounds,
each of which runs every row in turn: what interrupts a round only makes it longer, and most are too short to be
interrupted. "a callback" is the difference to the first row, divided by the number of callbacks.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from trackside import TrainerCallback
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.state import TrainerControl, TrainerState

CONTEXT = ("model", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader", "processing_class", "metrics")
"""What a trainer passes to callbacks by keyword, beside what the dispatcher has of its own."""


class Inert(TrainerCallback):
    """Hears the beginning of training, and nothing at a step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


class Hearing(TrainerCallback):
    """Hears the end of each step, and does nothing."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


class Reading(TrainerCallback):
    """Takes the model, and looks at everything else."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        kwargs  # noqa: B018


class Observing(Hearing):
    """The same, as an observer."""

    role = "observer"


def sending(kind: type[TrainerCallback] | None, callbacks: int, **options: Any) -> Callable[[int], None]:
    """Return a function that sends the events of as many steps to callbacks of a kind."""
    state = TrainerState()
    sender = _Sender()
    dispatcher = Dispatcher(sender, None, state, TrainerControl())
    dispatcher.context |= dict.fromkeys(CONTEXT)
    for number in range(callbacks if kind is not None else 0):
        dispatcher.attach(kind(), name=f"callback_{number}", **options)

    def send(steps: int) -> None:
        for _ in range(steps):
            state.global_step += 1
            dispatcher.send("on_step_begin")
            dispatcher.send("on_step_end")

    return send


class _Sender:
    """Stands for the trainer, which signals refer to weakly."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callbacks", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    count = options.callbacks
    rows = {
        "no callback": sending(None, count),
        f"{count} that do not hear a step": sending(Inert, count),
        f"{count} that hear on_step_end": sending(Hearing, count),
        f"{count} observers that hear on_step_end": sending(Observing, count),
        f"{count} that take all that there is by keyword": sending(Reading, count),
        f"{count} that hear every tenth on_step_end": sending(Hearing, count, every=10),
    }
    lowest = dict.fromkeys(rows, float("inf"))
    for number in range(options.rounds + 1):
        for name, send in rows.items():
            start = time.process_time()
            send(options.steps)
            if number:  # the first round finds the receivers
                lowest[name] = min(lowest[name], (time.process_time() - start) / options.steps * 1e6)
    print("| | us a step | us a callback |\n|---|---|---|")
    for name, value in lowest.items():
        print(f"| {name} | {value:.2f} | {(value - lowest['no callback']) / count:.3f} |")


if __name__ == "__main__":
    main()
