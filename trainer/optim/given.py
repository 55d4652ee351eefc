"""The optimizer and the schedule that the user gave a trainer, or has set on it since."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trackside.callbacks.builtin.learning_rate_monitor import groups_of
from trackside.callbacks.errors import ArgumentError

logger: logging.Logger = logging.getLogger("trackside.trainer")


class GivenOptimizers:
    """Tells an optimizer and a schedule of the user from those that a trainer makes for a run.

    Args:
        trainer: Its ``optimizer`` and ``lr_scheduler`` are now those that the user gave.
        converted: Returns an optimizer and a schedule in the forms of the framework.

    Attributes:
        pair: The optimizer and the schedule of the user, each None if the trainer makes it.
    """

    def __init__(self, trainer: Any, converted: Callable[..., tuple[Any, Any]] = lambda *pair: pair) -> None:
        self._trainer = trainer
        self._converted = converted
        self.pair: tuple[Any, Any] = (trainer.optimizer, trainer.lr_scheduler)
        self._left = self.pair

    def restore(self) -> None:
        """Set what the user gave, or has set since, in the place of what was made.

        Raises:
            ArgumentError: If the user has set one beside ``model_init``.
        """
        trainer = self._trainer
        now = (trainer.optimizer, trainer.lr_scheduler)
        pairs = zip(self.pair, self._left, now, strict=True)
        optimizer, schedule = (given if mine is left else mine for given, left, mine in pairs)
        check_given((optimizer, schedule), trainer.model_init)
        self.pair = self._converted(optimizer, schedule)
        trainer.optimizer, trainer.lr_scheduler = self._left = self.pair

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Return a context that begins with what the user gave; what is made in it is the trainer's."""
        self.restore()
        try:
            yield
        finally:
            self.note_left()

    def note_left(self) -> tuple[Any, Any]:
        """Note and return what the user finds on the trainer; anything else there later is set by the user."""
        self._left = (self._trainer.optimizer, self._trainer.lr_scheduler)
        return self._left


def check_given(optimizers: Sequence[Any], model_init: Any) -> None:
    """Check that an optimizer and a schedule of the user are not beside ``model_init``.

    Raises:
        ArgumentError: If one is.
    """
    if model_init is not None and tuple(optimizers) != (None, None):
        raise ArgumentError("optimizers", optimizers, "none beside model_init, whose models they would not know")


def tell_replaced(args: Any, optimizer: Any, *, has_options: bool = False) -> None:
    """Warn of the arguments that an optimizer of the user leaves without effect, on the first process.

    Args:
        args: Read for learning_rate and optim_args; a learning rate that is the optimizer's is not told.
        optimizer: None is none. Where the rates of its groups differ, they may follow from that of the arguments.
        has_options: Whether it was made with the options of the arguments.
    """
    groups = groups_of(optimizer) if hasattr(optimizer, "param_groups") or hasattr(optimizer, "learning_rate") else []
    found = [group.get("initial_lr", group.get("lr")) for group in groups]
    rates = {float(rate) for rate in found if rate is not None and not callable(rate)}
    unused = ["optim_args"] if optimizer is not None and args.optim_args and not has_options else []
    if len(rates) == 1 and not args.is_default("learning_rate"):
        unused += ["learning_rate"] * (not math.isclose(args.learning_rate, *rates, rel_tol=1e-6))
    if unused and args.should_log:
        texts = " and ".join(f"{name}={getattr(args, name)!r}" for name in unused)
        own = f", whose learning rate is {min(rates):g}" if "learning_rate" in unused else ""
        logger.warning("%s has no effect: the trainer was given an optimizer%s", texts, own)
