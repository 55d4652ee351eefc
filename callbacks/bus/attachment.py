"""Attachments: the options with which a callback is attached, and what it has cost since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias, get_args

from .._util.atomic_files import is_stream
from .._util.display import called_with, counted, short_repr
from ..callback import TrainerCallback
from ..errors import ArgumentError, CallbackError, TracksideTypeError, check_count, did_you_mean
from ..events import EventName, signal_named
from ..types import OnError, Role, WhenFull
from .callback_thread import QUEUE_LIMIT, CallbackThread
from .introspection import (
    check_adapted,
    check_calls,
    check_choice,
    check_hooks,
    foreign_role,
    instantiate,
    location_of,
    snake_case,
)

Position: TypeAlias = tuple[int, float, int]
"""Where a callback is called: its group, its place there, and its number among those of one place."""


@dataclass(kw_only=True)
class AttachOptions:
    """How a callback is attached.

    This is the only list of these options: `Dispatcher.attach` takes them as keywords, `Attachment` has them as
    attributes, and the keys of a config entry and its JSON schema are made from it.

    Attributes:
        name: The name of the callback in its trainer. None: the class's ``name``, or one made from that of the class.
        role: Overrides the role that the class declares (see `TrainerCallback`).
        on_error: Overrides the policy that the class declares.
        before: Names of callbacks that it must precede, against the usual order.
        after: Names of callbacks that it must follow.
        on: The only events at which it is called; it always gets on_train_end, to close what it has open, and a
            monitor is asked only with on_log. None: all that it overrides.
        every: It is called only at steps and records whose step is a multiple of this; so is what a monitor adds.
        background: Call it on a thread of its own; observers only. None: as the class says.
        timeout_s: A call in the background that takes longer is abandoned. None: the class's ``timeout_s``.
        queue: The most calls that wait in the background. None: 10000.
        when_full: "drop" leaves out steps and records, counted by event, while so many calls wait; "wait" lets training
            wait for room, as all other events do. None: "drop".
        origin: Where the callback comes from, for `trackside plan`. None: file and line of its class.

    Raises:
        CallbackError: If ``role``, ``on_error`` or ``when_full`` is not one of the choices.
        UnknownNameError: If ``on`` names an unknown event.
        ArgumentError: If another option has a value that is not allowed.
    """

    name: str | None = None
    role: Role | None = None
    on_error: OnError | None = None
    before: str | Iterable[str] = ()
    after: str | Iterable[str] = ()
    on: EventName | Iterable[EventName] | None = None
    every: int = field(default=1, metadata={"minimum": 1})
    background: bool | None = None
    timeout_s: float | None = field(default=None, metadata={"exclusiveMinimum": 0})
    queue: int | None = field(default=None, metadata={"minimum": 1})
    when_full: WhenFull | None = None
    origin: str | None = None

    @short_repr
    def __repr__(self) -> str:
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {item.name: given[item.name] for item in fields(self) if given[item.name] != item.default}
        return called_with(type(self).__name__, changed)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> AttachOptions:
        """Return the options of a map.

        Raises:
            TracksideTypeError: If it is not an option; the message has the nearest.
        """
        names = [item.name for item in fields(AttachOptions)]
        for name in options:
            if name not in names:
                raise TracksideTypeError(f"attach() has no option {name!r}.{did_you_mean(name, names)}")
        return AttachOptions(**options)

    def __post_init__(self) -> None:
        for option, choices in (("role", Role), ("on_error", OnError), ("when_full", WhenFull)):
            if getattr(self, option) is not None:
                check_choice(option, getattr(self, option), get_args(choices))
        for option in ("before", "after", "on"):
            if getattr(self, option) is not None:
                setattr(self, option, _names(option, getattr(self, option)))
        for event in self.on or ():
            signal_named(event)
        check_count("every", self.every)
        if self.queue is not None:
            check_count("queue", self.queue)
        if not isinstance(self.background, bool | None):
            raise ArgumentError("background", self.background, "true or false")
        if self.timeout_s is not None and (
            isinstance(self.timeout_s, bool) or not isinstance(self.timeout_s, int | float) or not self.timeout_s > 0
        ):
            raise ArgumentError("timeout_s", self.timeout_s, "a number of seconds above 0")


def _names(option: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise ArgumentError(option, value, "a name or a list of names")
    return names


@dataclass(kw_only=True)
class Attachment(AttachOptions):
    """One attached callback: the options that hold for it, those that its class declares included, and its cost.

    Attributes:
        number: The position in the list of callbacks, which is the order of attaching.
        position: The position in the order of the calls, up to date once it was asked for with `placed`.
        roster: Where it is attached.
        thread: The thread on which it is called in the background; None if it is called on the training thread.
        calls: How often one of its methods was called.
        seconds: Time spent on the training thread: in its methods, or in handing calls over and waiting.
        background_s: Time spent in its methods in the background.
        dropped: Calls that were left out since it could not keep up, or was abandoned; `thread` has them by event.
        is_behind: Whether a save has waited for its work on earlier checkpoints.
        failures: Exceptions it raised.
        failures_in_a_row: Those since one of the events in ``failing`` last succeeded.
        failing: The events at which it raised since then.
        detached_after: The number of failures after which it was detached; None while attached.
        last_error: The exception it raised last.
    """

    callback: Any
    name: str
    role: Role
    on_error: OnError
    origin: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    number: int = 0
    position: Position = (0, 0.0, 0)
    roster: Callable[[], Any] | None = None
    thread: CallbackThread | None = None
    calls: int = 0
    seconds: float = 0.0
    background_s: float = 0.0
    dropped: int = 0
    is_behind: bool = False
    failures: int = 0
    failures_in_a_row: int = 0
    failing: set[str] = field(default_factory=set)
    detached_after: int | None = None
    last_error: BaseException | None = None

    @short_repr
    def __repr__(self) -> str:
        where = ", in the background" if self.thread is not None else ""
        ended = "" if self.detached_after is None else f", detached after {counted(self.detached_after, 'failure')}"
        done = f"{counted(self.calls, 'call')} in {self.seconds:.3f} s{ended}"
        return f"<Attachment {self.name!r} of {type(self.callback).__name__}: {self.role}{where}, {done}>"

    @property
    def options(self) -> AttachOptions:
        """The options that attach the callback like this to another trainer."""
        return AttachOptions(**{item.name: getattr(self, item.name) for item in fields(AttachOptions)})

    @property
    def placed(self) -> Position:
        """The position in the order of the calls."""
        roster = None if self.roster is None else self.roster()
        if roster is not None:
            roster.place()
        return self.position

    @property
    def location(self) -> str:
        """File and line of the callback's class, for error messages."""
        return location_of(type(self.callback))

    def hears(self, event: str) -> bool:
        """Return whether it is called at ``event``, if it overrides it."""
        return self.on is None or event in (*self.on, "on_train_end")

    def recovered(self) -> None:
        """Note that an event at which it raised succeeded again."""
        self.failures_in_a_row = 0
        self.failing.clear()

    def forget(self, name: str) -> None:
        """Drop ``name`` from before and after: it is no longer attached."""
        self.before = tuple(other for other in self.before if other != name)
        self.after = tuple(other for other in self.after if other != name)


def attachment_of(callback: Any, options: AttachOptions | None = None) -> Attachment:
    """Return the attachment of a callback, with what its class declares where ``options`` leave it open.

    Args:
        callback: An instance, or a class that is called without arguments.
        options: How to attach it.

    Raises:
        CallbackError: If it has an ``on_...`` method that is not an event, or none that is one, if a method cannot be
            called as it will be, or if a control callback is to run in the background.
    """
    options = options or AttachOptions()
    check_adapted(callback)
    if isinstance(callback, type):
        callback = instantiate(callback)
    cls = type(callback)
    check_hooks(callback)
    check_calls(callback)
    role = options.role or getattr(callback, "role", None) or foreign_role(callback)
    check_choice(f"{cls.__name__}: role", role, get_args(Role))
    on_error = options.on_error or getattr(callback, "on_error", None) or ("warn" if role == "observer" else "raise")
    check_choice(f"{cls.__name__}: on_error", on_error, get_args(OnError))
    named = getattr(callback, "name", None)
    name = options.name or (named if isinstance(named, str) and named else snake_case(cls.__name__))
    thread = _thread_for(callback, name, role, options)
    origin = options.origin or f"Python, {location_of(cls)}"
    timing: dict[str, Any] = {"background": False, "timeout_s": None, "queue": None, "when_full": None}
    if thread is not None:
        timing = {
            "background": True,
            "timeout_s": thread.timeout_s,
            "queue": thread.limit,
            "when_full": thread.when_full,
        }
    declared = {"name": name, "role": role, "on_error": on_error, "origin": origin, **timing}
    return Attachment(**{**vars(options), **declared}, callback=callback, thread=thread)


def check_log_file(item: Attachment, others: Iterable[Attachment], args: Any) -> None:
    """Check that no other callback keeps the file of a logger.

    Raises:
        CallbackError: If one does.
    """
    for other in others:
        if not hasattr(other.callback, "log_file_of"):
            continue
        path = Path(item.callback.log_file_of(args))
        if not is_stream(path) and other.callback.log_file_of(args).resolve() == path.resolve():
            found = f"{type(item.callback).__name__} would write to {path}, as {other.name!r} does"
            raise CallbackError(f"{found}; give one of them another path, or attach only one")


def _thread_for(callback: Any, name: str, role: str, options: AttachOptions) -> CallbackThread | None:
    if options.background and role != "observer":
        raise CallbackError(f"{type(callback).__name__} steers the run and cannot do so in the background")
    is_declared = role == "observer" and getattr(callback, "background", False) is True
    if not (is_declared if options.background is None else options.background):
        for option in ("timeout_s", "queue", "when_full"):
            value = getattr(options, option)
            if value is not None:
                raise ArgumentError(option, value, "not given: this is for callbacks with background=True")
        return None
    declared_s = getattr(callback, "timeout_s", TrainerCallback.timeout_s)
    timeout_s = float(declared_s if options.timeout_s is None else options.timeout_s)
    return CallbackThread(name, timeout_s, options.queue or QUEUE_LIMIT, options.when_full or "drop")
