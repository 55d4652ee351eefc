"""The fault policy: what an exception of a callback does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import CallbackTimeoutError
from .attachment import Attachment

logger: logging.Logger = logging.getLogger("trackside.callbacks")

FAILURES_IN_A_ROW = 3
"""An observer is detached after this many failures one after the other."""


class FaultPolicy:
    """Counts the failures of callbacks, and raises, reports or detaches as each one's ``on_error`` says.

    Args:
        detached: Called when a callback was detached, with its attachment, the event and the exception.
    """

    def __init__(self, detached: Callable[[Attachment, str, BaseException], None]) -> None:
        self.detached = detached

    def failed(self, attachment: Attachment, event: str, error: BaseException) -> None:
        """Count a failure; raise it, or report it and detach the callback when it has failed too often.

        Raises:
            Exception: ``error`` itself, if the callback's policy is to raise.
        """
        attachment.failures += 1
        attachment.failures_in_a_row += 1
        attachment.failing.add(event)
        attachment.last_error = error
        if attachment.on_error == "raise":
            error.add_note(f"raised by the callback {attachment.name!r} ({attachment.location}) in {event}")
            raise error
        if attachment.failures == 1:
            told = (attachment.name, attachment.location, event, error)
            logger.warning("the callback %r (%s) failed in %s; training goes on: %r", *told, exc_info=error)
        at_once = attachment.on_error == "detach" or isinstance(error, CallbackTimeoutError)
        if attachment.failures_in_a_row >= (1 if at_once else FAILURES_IN_A_ROW) and attachment.detached_after is None:
            attachment.detached_after = attachment.failures
            self.detached(attachment, event, error)
