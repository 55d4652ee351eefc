"""The fault policy: what an exception of a callback does."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from .._util.of_thread import OfThread
from ..errors import CallbackTimeoutError, NotPlainError
from ..secrets import ScrubSecrets
from .attachment import Attachment

logger: logging.Logger = logging.getLogger("trackside.callbacks")
logger.addFilter(ScrubSecrets())  # errors of a callback may hold its address or its key

FAILURES_IN_A_ROW = 3
"""An observer is detached after this many failures one after the other."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that has no room at the moment: an observer that meets them stays attached."""

called: OfThread[Attachment] = OfThread()
"""The observer that is being called in this thread."""


class StopAtOnce(SystemExit):
    """Raised by a signal handler to end the process; not a failure of the callback that it interrupts."""


PASSED_ON = (KeyboardInterrupt, StopAtOnce)
"""Exceptions that are never failures of a callback."""


class FaultPolicy:
    """Counts the failures of callbacks, and raises, reports or detaches as each one's ``on_error`` says.

    Args:
        detached: Called when a callback was detached, with its attachment, the event and the exception.
    """

    def __init__(self, detached: Callable[[Attachment, str, BaseException], None]) -> None:
        self.detached = detached
        self._told: set[tuple[str, str]] = set()

    def failed(self, attachment: Attachment, event: str, error: BaseException) -> None:
        """Count a failure; raise it, or report it and detach the callback when it has failed too often.

        A full disk does not detach an observer: what it does after there is room again is not lost.

        Raises:
            BaseException: ``error`` itself, if the callback's policy is to raise, or if it is not a failure.
        """
        if isinstance(error, PASSED_ON):
            raise error
        attachment.failures += 1
        attachment.failures_in_a_row += 0 if getattr(error, "errno", None) in DISK_FULL else 1
        attachment.failing.add(event)
        attachment.last_error = error
        if attachment.on_error == "raise":
            note = f"raised by the callback {attachment.name!r} ({attachment.location}) in {event}"
            if note not in getattr(error, "__notes__", ()):  # it may be raised in an event within the event
                error.add_note(note)
            raise error
        if attachment.failures == 1:
            told = (attachment.name, attachment.location, event, error)
            logger.warning("the callback %r (%s) failed in %s; training goes on: %r", *told, exc_info=error)
        at_once = attachment.on_error == "detach" or isinstance(error, CallbackTimeoutError)
        if attachment.failures_in_a_row >= (1 if at_once else FAILURES_IN_A_ROW) and attachment.detached_after is None:
            attachment.detached_after = attachment.failures
            self.detached(attachment, event, error)

    def lost(self, attachment: Attachment, error: NotPlainError) -> None:
        """Report, once, that a value of a callback cannot be kept; it costs only that value.

        Raises:
            NotPlainError: ``error`` itself, if the callback's policy is to raise.
        """
        attachment.failures += 1
        attachment.last_error = error
        if attachment.on_error == "raise":
            error.add_note(f"given by the callback {attachment.name!r} ({attachment.location})")
            raise error
        self._tell_once(attachment, error.what + error.place, f"a value is left out; training goes on: {error}")

    def tell_taken(self, attachment: Attachment, name: str) -> None:
        """Report, once, that a monitor gave a value under a name that the record itself has."""
        reason = f"its {name!r} is left out, since the record has a value of that name; give it another name"
        self._tell_once(attachment, name, reason)

    def tell_changed(self, attachment: Attachment, place: str, change: str) -> None:
        """Report, once, that a value of a callback's state comes back from a checkpoint as one of another type."""
        self._tell_once(attachment, place, f"{place} {change}")

    def _tell_once(self, attachment: Attachment, subject: str, text: str) -> None:
        if (attachment.name, subject) not in self._told:
            self._told.add((attachment.name, subject))
            logger.warning("the callback %r (%s): %s", attachment.name, attachment.location, text)
