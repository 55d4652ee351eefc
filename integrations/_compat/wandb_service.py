"""W&B service errors: the exception with which W&B's service process refuses a request."""

from __future__ import annotations


def service_errors() -> tuple[type[Exception], ...]:
    """Return the type of exception that ``wandb.init`` raises when the service refuses a run, such as an id in use.

    Returns:
        A tuple for an ``except`` clause; empty, so that it catches nothing, if this version of W&B has no such type.
    """
    try:
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError
    except ImportError:
        return ()
    return (ServerResponseError,)
