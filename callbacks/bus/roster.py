"""The roster: the callbacks that are attached to one trainer, by name, in the order of the calls.

A further callback costs the same however many there are: they are sorted when the order is needed.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .attachment import Attachment
from .ordering import Levels, in_order, position_of

logger: logging.Logger = logging.getLogger("trackside.callbacks")


class Roster:
    """The callbacks of one trainer; each gets a name, a number and a position when it is added."""

    def __init__(self) -> None:
        self._items: dict[str, Attachment] = {}
        self._is_placed = self._is_sorted = True
        self._levels: Levels = Levels()
        self._namers: dict[str, set[str]] = {}
        self._number = 0
        self._kinds: Counter[tuple[type, int]] = Counter()
        self._suffixes: dict[str, int] = {}

    @property
    def by_name(self) -> dict[str, Attachment]:
        """The callbacks, in the order of the calls."""
        self.place()
        if not self._is_sorted:
            self._items = dict(sorted(self._items.items(), key=lambda item: item[1].position))
            self._is_sorted = True
        return self._items

    def place(self) -> None:
        """Give every callback its position, if ``before`` and ``after`` have changed it."""
        if not self._is_placed:
            self._levels.renew(in_order(self._items))
            self._is_placed, self._is_sorted = True, False

    def add(self, attachments: Iterable[Attachment]) -> list[Attachment]:
        """Add callbacks; ``before`` and ``after`` may name one further down the list.

        Raises:
            CallbackOrderError: If they form a cycle, or name a callback that is not there; then none is added.
        """
        added: list[Attachment] = []
        try:
            for attachment in attachments:
                self._number_and_name(attachment)
                self._items[attachment.name] = attachment
                added.append(attachment)
            if not all(map(self._levels.take, added)):
                self._levels.renew(in_order(self._items))
        except BaseException:
            for attachment in added:
                del self._items[attachment.name]
                self._levels.drop(attachment.name)
            raise
        self._is_placed = self._is_placed and all(map(self._is_in_place, added))
        self._is_sorted = False
        for attachment in added:
            attachment.roster = weakref.ref(self)
            self._count(attachment)
        return added

    def find(self, callback: Any) -> Attachment | None:
        """Return the attachment of a callback, given as class, instance or name; None if it is not there."""
        if isinstance(callback, str):
            return self._items.get(callback)
        known = self.by_name.values()
        return next((item for item in known if callback is item.callback or callback is type(item.callback)), None)

    def remove(self, attachment: Attachment) -> None:
        """Remove a callback, also from ``before`` and ``after`` of the others."""
        del self._items[attachment.name]
        self._levels.drop(attachment.name)
        self._kinds[_kind(attachment.callback)] -= 1
        self._suffixes.clear()
        for other in (*attachment.before, *attachment.after):
            self._namers[other].discard(attachment.name)
        for name in self._namers.pop(attachment.name, ()):
            self._items[name].forget(attachment.name)
            self._is_placed = False

    def _number_and_name(self, attachment: Attachment) -> None:
        base = attachment.name
        free, number = base, self._suffixes.get(base, 2)
        while free in self._items:
            free, number = f"{base}_{number}", number + 1
        self._suffixes[base] = number
        self._number += 1
        attachment.name, attachment.number = free, self._number
        attachment.position = position_of(attachment)
        if attachment.thread is not None:
            attachment.thread.name = free

    def _is_in_place(self, item: Attachment) -> bool:
        """Return whether the position of a new callback is what it asks for, so that nothing needs to be sorted."""
        return not item.before and all(self._items[name].position < item.position for name in item.after)

    def _count(self, attachment: Attachment) -> None:
        for other in (*attachment.before, *attachment.after):
            self._namers.setdefault(other, set()).add(attachment.name)
        kind = _kind(attachment.callback)
        self._kinds[kind] += 1
        if self._kinds[kind] == 2:
            logger.warning("a second callback of class %s is attached; both stay", kind[0].__name__)


def _kind(callback: Any) -> tuple[type, int]:
    """Return what two callbacks that do the same have in common: their class, and what an adapter calls."""
    return type(callback), id(getattr(callback, "adapted", None))
