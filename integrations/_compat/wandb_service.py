"""W&B's service and session: its errors, whether there is a login, and the run to which hooks on a model log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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


def has_login(options: Mapping[str, Any]) -> bool:
    """Return whether ``wandb.init`` finds a login, or needs none, so that it asks no question.

    Args:
        options: What ``wandb.Settings`` gets.

    Returns:
        True also if this version of W&B cannot tell.
    """
    try:
        import wandb
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth

        settings = wandb_setup.singleton().settings.model_copy()
        settings.update_from_settings(wandb.Settings(**options))
        if settings._noop or settings._offline or settings.api_key:
            return True
        host = wbauth.HostUrl(settings.base_url, app_url=settings.app_url)
        return wbauth.authenticate_session(host=host, source="trackside", prompt=False) is not None
    except Exception:
        return True


def log_to_itself(run: Any) -> None:
    """Let the hooks of ``run.watch`` log to ``run``; W&B's log to the run that is global in the process."""
    import wandb

    history = run._torch
    log = history.log_tensor_stats

    def log_to_run(*args: Any, **kwargs: Any) -> None:
        before, wandb.run = wandb.run, run
        try:
            log(*args, **kwargs)
        finally:
            wandb.run = before

    history.log_tensor_stats = log_to_run
