"""One value for each thread."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class OfThread(threading.local, Generic[T]):
    """A value that each thread has of its own.

    Unlike the value of a ``ContextVar``, it is not kept alive by a context that a library copies, such as that of a
    task which W&B starts within a call and keeps until the process ends.
    """

    value: T | None = None
