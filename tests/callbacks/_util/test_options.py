"""The options that a class or a function takes."""

from __future__ import annotations

import enum

from trackside.callbacks._util.options import Options


class Slack:
    def __init__(self, channel: str, every: int = 10, *, quiet: Missing = False, untyped=None):  # noqa: F821
        self.channel = channel


class Derived(Slack):
    def __init__(self, channel: bytes, **kwargs):
        super().__init__(channel, **kwargs)


def test_the_options_are_those_of_the_constructor_with_types_and_defaults():
    options = Options(Slack)

    assert [(name, item.default) for name, item in options.parameters.items() if name != "channel"] == [
        ("every", 10),
        ("quiet", False),
        ("untyped", None),
    ]
    assert options.hints == {"channel": str, "every": int}
    assert not options.takes_any


def test_an_option_without_a_default_may_be_missing():
    assert Options(Slack).missing(["every"]) == ["channel"]
    assert Options(Slack).missing(["channel"]) == []


def test_the_options_of_a_base_class_count_behind_keyword_arguments():
    options = Options(Derived)

    assert list(options.parameters) == ["channel", "every", "quiet", "untyped"]
    assert options.hints["channel"] is bytes
    assert options.takes_any


def test_a_class_written_in_c_takes_any_option():
    assert Options(enum.Enum.__class__.__mro__[-1]).missing([]) == []
    assert Options(dict).takes_any
