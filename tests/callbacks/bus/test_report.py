"""The report of callbacks: a map by name, and a table."""

from __future__ import annotations

from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.report import CallbackReport, costs


def attached(name, **values):
    return Attachment(callback=None, name=name, role="observer", on_error="warn", origin="", **values)


def test_costs_name_the_share_of_the_run_and_what_failed():
    failing = attached("tracker", failures=3, detached_after=3, last_error=OSError("gone"))

    lines = costs({"csv": attached("csv", calls=3, seconds=0.5), "tracker": failing}, seconds=10.0).splitlines()

    assert lines[1].split() == ["csv", "observer", "3", "0.500", "5.0", "%"]
    assert lines[2].endswith("detached after 3 failures: OSError('gone')")


def test_a_report_is_a_map_that_shows_itself_as_a_table():
    report = CallbackReport(csv=attached("csv", calls=3, seconds=0.5), b=attached("<b>", last_error=OSError("<i>")))
    report["b"].failures = 1

    assert isinstance(report, dict)
    assert list(report) == ["csv", "b"]
    for text in (str(report), repr(report)):
        assert [line.split()[:4] for line in text.splitlines()[:2]] == [
            ["callback", "role", "calls", "seconds"],
            ["csv", "observer", "3", "0.500"],
        ]
    assert "<td>csv</td><td>observer</td><td>3</td><td>0.500</td>" in report._repr_html_()
    assert "<i>" not in report._repr_html_()
    assert str(CallbackReport()).split() == ["callback", "role", "calls", "seconds", "share"]
