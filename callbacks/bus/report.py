"""Report of callbacks: what each has cost, as a map by name that shows itself as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .._util.display import html_table, table
from ..secrets import scrub
from .attachment import Attachment
from .callback_thread import tally

HEAD = ("callback", "role", "calls", "seconds", "share", "")


class CallbackReport(dict[str, Attachment]):
    """The callbacks of a trainer by name, in the order in which they are called; printed, it is a table."""

    def __repr__(self) -> str:
        return costs(self)

    def _repr_html_(self) -> str:
        return html_table(_rows(self, 0.0), HEAD)


def costs(report: Mapping[str, Attachment], seconds: float = 0.0) -> str:
    """Return a table of the time that each callback took.

    Args:
        report: ``trainer.callback_report``.
        seconds: Duration of the run; 0 leaves the shares out.
    """
    return table([HEAD, *_rows(report, seconds)], right=(2, 3, 4))


def _rows(report: Mapping[str, Attachment], seconds: float) -> Iterator[tuple[str, ...]]:
    for name, item in report.items():
        share = f"{100 * item.seconds / seconds:.1f} %" if seconds else ""
        yield name, item.role, str(item.calls), f"{item.seconds:.3f}", share, _remarks(item)


def _remarks(item: Attachment) -> str:
    """Return what the times of a callback do not tell: its failures, and how it kept up in the background."""
    remarks = []
    if item.detached_after is not None:
        remarks.append(f"detached after {item.detached_after} failures: {item.last_error!r}")
    elif item.failures:
        remarks.append(f"{item.failures} failures: {item.last_error!r}")
    if item.thread is not None:
        remarks.append(f"in the background {item.background_s:.3f} s, at most {item.thread.longest} calls waited")
    if item.thread is not None and item.thread.dropped:
        remarks.append(f"left out: {tally(item.thread.dropped.elements())}")
    return scrub("; ".join(remarks))
