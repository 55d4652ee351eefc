"""The callback callback_name for trackside."""

from trackside_callback_name.callback import CallbackNameCallback

__all__ = ["CallbackNameCallback"]
