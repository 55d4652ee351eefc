"""What a method can read of its keywords, found from its body."""

from __future__ import annotations

import functools
import inspect

import pytest

from trackside.callbacks._util.signatures import keywords_read


class Callback:
    def plain(self, args, state, control, **kwargs):
        return control

    def named(self, args, state, control, model=None, *, logs=None, **kwargs):
        return model, logs

    def reads(self, args, state, control, model=None, **kwargs):
        return kwargs.get("trainer")

    def hands_on(self, args, state, control, **kwargs):
        return self.plain(args, state, control, **kwargs)

    def inside(self, args, state, control, **kwargs):
        return lambda: kwargs

    def looks(self, args, state, control, **kwargs):
        return locals()

    def frames(self, args, state, control, **kwargs):
        return inspect.currentframe().f_locals

    def closed(self, args, state, control, model=None):
        return model

    def by_position(self, *args, **kwargs):
        return args

    @functools.wraps(plain)
    def wraps(self, *args, **kwargs):
        return Callback.plain(self, *args, **kwargs)

    partial = functools.partialmethod(named, logs=1)


@pytest.mark.parametrize(("name", "read"), [("plain", ()), ("named", ("model", "logs"))])
def test_a_body_that_does_not_mention_its_kwargs_reads_what_it_names(name, read):
    assert keywords_read(getattr(Callback(), name), 3) == read


@pytest.mark.parametrize(
    "name", ["reads", "hands_on", "inside", "looks", "frames", "closed", "by_position", "wraps", "partial"]
)
def test_a_body_that_may_read_any_keyword_gets_all(name):
    assert keywords_read(getattr(Callback(), name), 3) is None


def test_what_is_not_written_in_python_gets_all():
    assert keywords_read(print, 3) is None
    assert keywords_read(functools.partial(print), 3) is None
    assert keywords_read(None, 3) is None


def test_a_function_without_self_reads_what_it_names():
    def function(args, state, control, metrics=None, **kwargs):
        return metrics

    assert keywords_read(function, 3) == ("metrics",)
