"""Random instants."""

from __future__ import annotations

import random

from trackside.cli.chaos.instants import START, UPDATES, Instant, drawn


def test_instants_are_drawn_in_saves_before_the_first_update_and_within_the_time_that_is_left():
    draw = random.Random(0)

    instants = [drawn(draw, left_s=8.0, left_saves=5, save_s=0.1) for _ in range(400)]

    in_saves = [instant for instant in instants if instant.save]
    later = [instant for instant in instants if not instant.save and instant.after == UPDATES]
    assert {instant.save for instant in in_saves} == {1, 2, 3, 4, 5}
    assert 150 < len(in_saves) < 250
    assert all(0 <= instant.delay_s <= 0.1 for instant in in_saves)
    assert 100 < len(later) < 220
    assert 6.0 < max(instant.delay_s for instant in later) <= 7.6
    assert 20 < sum(instant.after == START for instant in instants) < 70


def test_an_instant_waits_for_what_it_follows():
    assert not Instant(0.0).is_due(5.0, {START: 1.0, UPDATES: None}, [])
    assert Instant(2.0, after=START).is_due(3.0, {START: 1.0, UPDATES: None}, [])
    assert not Instant(0.0, save=2).is_due(5.0, {START: 1.0, UPDATES: 1.0}, [(2.0, 2.0)])
