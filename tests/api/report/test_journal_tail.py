"""The journal is read on while it grows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trackside.report.journal_tail import JournalTail


def line(step, event="on_log", **more):
    return json.dumps({"event": event, "time": 1.0 * step, "step": step, "epoch": None, "logs": {}, **more}) + "\n"


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal.jsonl"


def steps(tail):
    return [entry["step"] for entry in tail.new_entries()]


def test_only_what_was_added_is_read_and_a_line_once_it_is_whole(journal):
    tail = JournalTail(journal)
    journal.write_text(line(1) + line(2) + line(3)[:20])
    assert not tail.is_replaced()
    first, was_torn = steps(tail), tail.ends_torn()
    with journal.open("a") as file:
        file.write(line(3)[20:] + line(4))

    assert (first, was_torn) == ([1, 2], True)
    assert steps(tail) == [3, 4]
    assert (steps(tail), tail.ends_torn(), tail.torn) == ([], False, 0)


def test_a_journal_that_is_replaced_is_read_from_its_beginning(journal):
    tail = JournalTail(journal)
    journal.write_text(line(1) + line(2))
    tail.is_replaced()
    steps(tail)
    other = journal.with_name("other")
    other.write_text(line(7))
    os.replace(other, journal)

    assert tail.is_replaced()
    assert steps(tail) == [7]


def test_lines_of_steps_are_left_out_unless_they_decide_something_or_are_the_last(journal: Path):
    decided = line(2, "on_step_end", decisions={"should_save": "asked"})
    journal.write_text(line(1, "on_step_end") + decided + line(3, "on_optimizer_step", skipped=True) + line(4))
    tail = JournalTail(journal)
    first = steps(tail)
    with journal.open("a") as file:
        file.write(line(5, "on_step_end") + line(6, "on_step_end"))

    assert first == [2, 3, 4]
    assert steps(tail) == [6]


def test_lines_that_are_torn_or_of_something_else_are_counted(journal):
    tail = JournalTail(journal)
    journal.write_text(
        '{"event": "on_lo\n' + '{"event": "on_tea_time", "step": 1, "epoch": 0}\n' + "[" * 9999 + "\n" + line(1)
    )

    assert steps(tail) == [1]
    assert (tail.torn, tail.foreign) == (2, 1)
