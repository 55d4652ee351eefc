"""Random instants."""

from __future__ import annotations

import random

from trackside.cli.chaos.instants import SAVE, START, UPDATE, Instant, Left, drawn


def test_instants_are_drawn_in_saves_before_the_first_update_and_within_all_that_is_left():
    draw, left = random.Random(0), Left(time_s=8.0, updates=30, saves=5, update_s=0.2, save_s=0.1)

    instants = [drawn(draw, left) for _ in range(600)]

    of = {kind: [instant for instant in instants if instant.after == kind] for kind in (SAVE, START, UPDATE)}
    assert {instant.number for instant in of[SAVE]} == {1, 2, 3, 4, 5}
    assert {instant.number for instant in of[UPDATE]} == set(range(1, 31))
    assert 240 < len(of[SAVE]) < 360
    assert 30 < len(of[START]) < 100
    assert all(0 <= instant.delay_s <= 0.1 for instant in of[SAVE])
    assert 0.1 < max(instant.delay_s for instant in of[UPDATE]) <= 0.2


def test_a_job_that_is_not_traced_is_killed_by_time():
    left = Left(time_s=8.0, updates=0, saves=0, update_s=0.0, save_s=0.0)

    delays = [drawn(random.Random(seed), left).delay_s for seed in range(50)]

    assert 6.0 < max(delays) <= 7.6


def test_an_instant_waits_for_what_it_follows():
    seen = {START: [1.0], UPDATE: [2.0, 2.5], SAVE: []}

    assert not Instant(0.0, SAVE).is_due(5.0, seen)
    assert not Instant(1.0, UPDATE, 2).is_due(3.0, seen)
    assert Instant(1.0, UPDATE, 2).is_due(3.5, seen)
    assert not Instant(0.0, UPDATE, 3).is_due(5.0, seen)
