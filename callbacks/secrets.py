"""Secrets: texts that are used but never written, in trackers, journals, checkpoints, plans, logs and errors.

A value is a secret by the name of its option or argument (`is_secret_name`), because it is a `Secret`, because it was
read from the environment, or because it is a web hook's address. Each is shown as `MASK`.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

SHORTEST = 8
"""The length from which a secret is also found within other texts; a shorter one would mask ordinary words."""

NAMES = re.compile(
    r"(^|_)(pass(word|wd|phrase)?|pwd|secret|credentials?|api_?key|(access|secret|private|account|signing)_key|web_?hook"
    r"|auth|authorization|bearer|(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token$)s?(_|$)"
)
"""Names of secrets; special tokens of a tokenizer are not secrets."""

ABOUT = re.compile(r"_(env|variable|var|file|path|name|length|type|id)$")
"""Names of what only tells where a secret is, or of what kind."""

REFERENCE = re.compile(r"\$\{ENV:(?P<name>[A-Za-z_]\w*)(?:,(?P<default>[^}]*))?\}")

PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")

ADDRESS = re.compile(r"(https?://[^/\s]+)/\S+")

_known: set[str] = set()


class Secret(str):
    """A text that is shown as ``***`` wherever trackside writes it, and in ``repr``; otherwise it is the text.

    Mark an option by it in the signature (``url: Secret``), a value in Python (``Secret("...")``), or a value in YAML
    by the tag ``!secret``.

    Example:
        >>> token = Secret("abc"); print([token], token == "abc")
        ['***'] True
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


@functools.lru_cache(maxsize=10_000)
def is_secret_name(name: str) -> bool:
    """Return whether an option or argument of this name, or with these keys joined by dots, is a secret.

    Example:
        >>> [is_secret_name(name) for name in ("api_key", "hubToken", "max_tokens", "eos_token", "password_file")]
        [True, True, False, False, False]
    """
    option = re.sub(r"^callbacks\.[^.]*", "", name)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", option).replace("-", "_").replace(".", "_").lower()
    return bool(NAMES.search(words)) and not ABOUT.search(words)


def masked(value: Any, name: str = "") -> Any:
    """Return ``value`` with every secret in it masked.

    Args:
        value: Plain data, or any value.
        name: The name of the option or argument that it belongs to.

    Example:
        >>> masked({"channel": "runs", "token": "abc", "key": "${ENV:KEY}", "db": "sql://me:pw@host/x"})
        {'channel': 'runs', 'token': '***', 'key': '${ENV:KEY}', 'db': 'sql://me:***@host/x'}
    """
    if isinstance(value, Mapping):
        return {key: masked(item, _name_below(name, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([masked(item, name) for item in value]) if type(value) in (list, tuple) else value
    if isinstance(value, Secret) or (is_secret_name(name) and isinstance(value, str | int | float | bytes)):
        return _masked_secret(value)
    return scrub(value) if isinstance(value, str) else value


def _name_below(name: str, key: Any) -> str:
    """Return the name that decides about the value at ``key`` of a map: the name of a callback decides nothing."""
    if name == "callbacks":
        return ""
    return name if is_secret_name(name) else str(key)


def _masked_secret(value: Any) -> Any:
    """Return the mask of a secret; a reference stays, since it tells only the name of the variable."""
    if isinstance(value, bool) or value in ("", MASK):
        return value
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return MASK
    return value if found["default"] is None else f"${{ENV:{found['name']},{MASK}}}"


def remember(value: Any, name: str = "") -> None:
    """Note every secret in ``value``, so that `scrub` finds it in other texts, such as those of errors."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            remember(item, _name_below(name, key))
    elif isinstance(value, list | tuple):
        for item in value:
            remember(item, name)
    elif isinstance(value, Secret) or (isinstance(value, str) and is_secret_name(name)):
        _known.update({str(value)} if len(value) >= SHORTEST and not REFERENCE.search(value) else ())


def scrub(text: str) -> str:
    """Return ``text`` without known secrets, passwords in addresses, and the paths of web hooks."""
    for secret in sorted(_known, key=len, reverse=True):  # one may begin with another
        if secret in text:
            text = text.replace(secret, MASK)
    if "://" not in text:
        return text
    text = PASSWORD.sub(rf"\1:{MASK}@", text)
    return ADDRESS.sub(lambda found: f"{found[1]}/{MASK}" if "hook" in found[0].lower() else found[0], text)


class ScrubSecrets(logging.Filter):
    """A filter of a logger that masks secrets in its messages and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (clean := scrub(text)) != text:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        return True
