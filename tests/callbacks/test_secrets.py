"""What is a secret, and how it is masked."""

from __future__ import annotations

import logging

import pytest

from trackside.callbacks._util.environment import resolved
from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import ArgumentError, TracksideValueError
from trackside.callbacks.secrets import MASK, ScrubSecrets, Secret, is_secret_name, masked, remember, scrub


@pytest.mark.parametrize(
    "name",
    [
        *(
            "api_key",
            "apiKey",
            "token",
            "hub_token",
            "accessToken",
            "password",
            "db-password",
            "passwd",
            "client_secret",
        ),
        *(
            "webhook",
            "webhook_url",
            "slack.token",
            "secret_key",
            "aws_secret_access_key",
            "credentials",
            "Authorization",
        ),
        *("api_keys", "private_key", "auth"),
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)
    assert masked({name: "abc"}) == {name: MASK}


@pytest.mark.parametrize(
    "name",
    [
        *("max_tokens", "eos_token", "pad_token", "token_type", "tokenizer", "num_tokens", "keys", "author", "key"),
        *("password_file", "api_key_env", "include_num_input_tokens_seen", "monitor", "path", "authentic"),
    ],
)
def test_names_that_only_look_like_it(name):
    assert not is_secret_name(name)
    assert masked({name: "abc"}) == {name: "abc"}


def test_the_name_of_a_callback_makes_nothing_a_secret():
    given = {"callbacks": {"webhook": {"every": 3, "class_path": "a.B", "token": "abc"}}}

    assert masked(given) == {"callbacks": {"webhook": {"every": 3, "class_path": "a.B", "token": MASK}}}
    assert not is_secret_name("callbacks.webhook.every")
    assert is_secret_name("callbacks.webhook.init_args.token")


def test_all_below_a_secret_name_is_masked_and_structure_stays():
    given = {"headers": {"Authorization": "Bearer x", "accept": "json"}, "secret": {"a": ["b", 5, None]}, "n": (1, "x")}

    assert masked(given) == {
        "headers": {"Authorization": MASK, "accept": "json"},
        "secret": {"a": [MASK, MASK, None]},
        "n": (1, "x"),
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/***"),
        ("https://example.org/webhook/xyz", "https://example.org/***"),
        ("https://example.org/runs/1", "https://example.org/runs/1"),
        ("failed: https://hooks.a.b/x?y=z (404)", "failed: https://hooks.a.b/*** (404)"),
    ],
)
def test_addresses_that_hold_secrets_are_masked_whatever_their_option_is_called(text, shown):
    assert masked({"url": text}) == {"url": shown}


def test_a_marked_text_is_used_as_text_and_shown_masked():
    secret = Secret("marked-text-1")

    assert f"{secret}" == secret == "marked-text-1"
    assert repr({"url": secret}) == "{'url': '***'}"
    assert plain({"url": [secret]}, "a state") == {"url": [MASK]}


def test_a_known_secret_is_found_in_other_texts():
    remember({"api_key": "remembered-1", "token": "remembered-1-and-more", "pin": Secret("1234")})

    assert scrub("no entry with remembered-1 or remembered-1-and-more") == "no entry with *** or ***"
    assert scrub("at step 1234") == "at step 1234"  # too short to be told from other numbers


def test_log_records_and_their_tracebacks_are_scrubbed(caplog):
    remember({"token": "remembered-2"})
    logger = logging.getLogger("test_secrets")
    logger.addFilter(ScrubSecrets())

    try:
        raise ValueError("remembered-2")
    except ValueError as error:
        logger.warning("failed with %r", error, exc_info=error)

    assert "remembered-2" not in caplog.text
    assert "failed with ValueError('***')" in caplog.text


def test_an_error_about_a_secret_does_not_show_it():
    assert str(ArgumentError("hub_token", "abc", "not this")) == "hub_token='***' is not allowed: not this"


def test_references_are_resolved_also_within_texts_and_nested(monkeypatch):
    monkeypatch.setenv("TRACKSIDE_A", "one")
    monkeypatch.delenv("TRACKSIDE_B", raising=False)
    mixed = "x-${ENV:TRACKSIDE_A}-${ENV:TRACKSIDE_B,two, three}"

    found = resolved({"a": ["${ENV:TRACKSIDE_A}"], "b": mixed, "c": "${ENV:TRACKSIDE_B,}"})

    assert found == {"a": ["one"], "b": "x-one-two, three", "c": ""}
    assert repr(found) == "{'a': ['***'], 'b': '***', 'c': '***'}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${ENV:TRACKSIDE_B}", "the environment variable TRACKSIDE_B is not set; set it, or give a default: "),
        ("${ENV:}", "or \\$.ENV:NAME,default. is needed"),
        ("${ENV:1X}", "is needed"),
        ("${ENV:X", "is needed"),
    ],
)
def test_what_cannot_be_resolved_is_an_error(text, expected, monkeypatch):
    monkeypatch.delenv("TRACKSIDE_B", raising=False)

    with pytest.raises(TracksideValueError, match=expected):
        resolved(text)


def test_a_reference_is_shown_but_not_its_default_where_that_is_a_secret():
    assert masked({"token": "${ENV:T}", "url": "${ENV:U,http://x}"}) == {
        "token": "${ENV:T}",
        "url": "${ENV:U,http://x}",
    }
    assert masked({"token": "${ENV:T,abc}"}) == {"token": "${ENV:T,***}"}
