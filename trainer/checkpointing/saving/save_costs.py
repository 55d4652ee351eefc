"""What the saves of a run cost: how long training waited, and how quickly files were written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

logger: logging.Logger = logging.getLogger("trackside.trainer")


@dataclass
class SaveCosts:
    """Sums over the saves of a run, on the process that writes.

    Attributes:
        saves: Number of checkpoints committed.
        size_bytes: Bytes of their files.
        stall_s: Seconds that training waited in a save, failed ones included.
        write_s: Seconds from the first byte to the commit and the deletion of older checkpoints, most of them in the
            background.

    Example:
        >>> print(SaveCosts(saves=2, size_bytes=1_200_000_000, stall_s=0.25, write_s=4.0))
        2 saves of 600 MB: training waited 0.250 s (0.125 s each); written in 4.00 s (300 MB/s)
    """

    saves: int = 0
    size_bytes: int = 0
    stall_s: float = 0.0
    write_s: float = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Return a context in which training waits."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.stall_s += time.perf_counter() - start_s

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Return a context in which a checkpoint is written and committed."""
        start_s = time.perf_counter()
        yield
        self.write_s += time.perf_counter() - start_s

    def add(self, checkpoint: Path) -> None:
        """Count a committed checkpoint."""
        self.saves += 1
        self.size_bytes += size_of(checkpoint)

    def report(self) -> None:
        """Log the sums at level INFO, if there were saves, and begin anew."""
        if self.saves:
            logger.info("%s", str(self))  # before the sums begin anew
        vars(self).update(vars(SaveCosts()))

    def __str__(self) -> str:
        count, size_mb = max(self.saves, 1), self.size_bytes / 1e6
        return (
            f"{self.saves} {'save' if self.saves == 1 else 'saves'} of {size_mb / count:.3g} MB: training waited "
            f"{self.stall_s:.3f} s ({self.stall_s / count:.3f} s each); written in {self.write_s:.2f} s "
            f"({size_mb / max(self.write_s, 1e-9):.3g} MB/s)"
        )


def size_of(folder: Path) -> int:
    """Return the bytes of the files in ``folder``; those of files that another process removes meanwhile are left out.

    Example:
        >>> size_of(Path("does-not-exist"))
        0
    """
    total = 0
    with suppress(OSError):
        for path in folder.rglob("*"):
            total += path.stat().st_size if path.is_file() else 0
    return total
