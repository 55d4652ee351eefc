"""The ``callback_handler`` of a trainer: the list of its callbacks, and the sending of its events, by other names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.events import EVENTS
from trackside.callbacks.state import TrainerControl

PAYLOAD = {"on_evaluate": "metrics", "on_predict": "metrics", "on_log": "logs"}
"""What an event gets by position after args, state and control."""


class CallbackHandler:
    """The callbacks of a trainer, as scripts for the transformers Trainer use them.

    ``handler.on_evaluate(args, state, control, metrics)``, and so on for each event, sends it to every callback.

    Args:
        dispatcher: Attaches callbacks and sends events.
        is_scheduled: Returns whether the loop has asked for an evaluation, whose events it sends itself.
    """

    def __init__(self, dispatcher: Dispatcher, is_scheduled: Callable[[], bool]) -> None:
        self._dispatcher = dispatcher
        self._is_scheduled = is_scheduled

    @property
    def callbacks(self) -> list[Any]:
        """The attached callbacks in the order of the calls."""
        return [item.callback for item in self._dispatcher.attachments.values()]

    @property
    def callback_list(self) -> str:
        """The names of their classes, one on each line."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    def add_callback(self, callback: Any) -> None:
        """Attach a callback, given as an instance or a class."""
        self._dispatcher.attach(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, given as class or instance, and return it; None if it is not attached."""
        return self._dispatcher.remove(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given as class or instance."""
        self._dispatcher.remove(callback)

    def call_event(self, event: str, args: Any, state: Any, control: TrainerControl, **payload: Any) -> TrainerControl:
        """Send an event to every callback; return the control flags, which are always the trainer's own."""
        if event == "on_evaluate":
            payload.setdefault("scheduled", False)
        if not (event in ("on_evaluate_begin", "on_evaluate") and self._is_scheduled()):
            self._dispatcher.send(event, **payload)
        return self._dispatcher.control

    def __getattr__(self, name: str) -> Any:
        """Return the function that sends the event ``name``, or what callbacks get under that keyword (``model``)."""
        if name in EVENTS:
            return self._sends(name)
        context = vars(self)["_dispatcher"].context if "_dispatcher" in vars(self) else {}
        if name in context:
            return context[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _sends(self, event: str) -> Callable[..., TrainerControl]:
        def send(args: Any, state: Any, control: TrainerControl, *values: Any, **payload: Any) -> TrainerControl:
            if values:
                payload[PAYLOAD[event]] = values[0]
            return self.call_event(event, args, state, control, **payload)

        return send
