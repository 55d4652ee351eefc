"""Signatures of functions that other people wrote: whether a call fits, reaches the body, and what it may pass."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import CodeType, MethodType
from typing import Any

READ_LOCALS = frozenset({"locals", "vars", "dir", "eval", "exec", "currentframe", "_getframe", "stack"})
"""Names of functions that read the variables of the function that calls them."""


FORWARDS = ("update_state", "update", "forward", "call")
"""Methods to which an object that is called with anything passes it: of metrics, of modules, of layers."""


def misfit(function: Callable[..., Any], positional: int, keywords: Iterable[str]) -> str:
    """Return why ``function`` cannot be called with so many values by position and these keywords; "" if it can."""
    signature = signature_of(function)
    try:
        if signature is not None:
            signature.bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return str(error)
    return ""


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature of ``function``, or that of the method to which an object passes on what it is called with.

    Returns:
        None if it is not known.
    """
    signature = _signature(function)
    if inspect.isroutine(function) or isinstance(function, type) or (signature and not _is_open(signature)):
        return signature
    behind = [_signature(method) for name in FORWARDS if callable(method := getattr(function, name, None))]
    if behind and callable(children := getattr(function, "children", None)):  # a module that passes it on to its parts
        behind += map(signature_of, children())
    return next((each for each in behind if each is not None and not _is_open(each)), signature)


def parameters_of(function: Callable[..., Any]) -> str:
    """Return the parameters of ``function`` as they are written, without types; "anything" if they are not known.

    Example:
        >>> parameters_of(lambda x, *, y=2: x)
        '(x, *, y=2)'
    """
    signature = signature_of(function)
    if signature is None:
        return "anything"
    bare = [item.replace(annotation=item.empty) for item in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _is_open(signature: inspect.Signature) -> bool:
    kinds = {item.kind for item in signature.parameters.values()}
    return kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def keywords_taken(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the parameters of ``function`` that may be given by keyword, the first one excepted; None for any.

    Example:
        >>> sorted(keywords_taken(lambda trainer, state, *, logs=None: None))
        ['logs', 'state']
    """
    signature = signature_of(function)
    parameters = list(signature.parameters.values()) if signature is not None else []
    if signature is None or any(item.kind is item.VAR_KEYWORD for item in parameters):
        return None
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = [item for item in parameters if item.kind in by_keyword]
    if named and named[0] is parameters[0] and named[0].kind is named[0].POSITIONAL_OR_KEYWORD:
        del named[0]
    return frozenset(item.name for item in named)


def keywords_read(method: object, positional: int) -> tuple[str, ...] | None:
    """Return the keywords that a call of ``method`` can make a difference by; None for any.

    A body that does not mention its ``**kwargs`` reads its named parameters only. To pass it no others saves most of
    the time of a call that has many.

    Args:
        positional: Number of values that are passed by position.
    """
    code, first = getattr(method, "__code__", None), positional + isinstance(method, MethodType)
    if not isinstance(code, CodeType) or code.co_flags & inspect.CO_VARARGS or code.co_argcount < first:
        return None
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return None  # a keyword that it does not take is an error
    count = code.co_argcount + code.co_kwonlyargcount
    rest = code.co_varnames[count]
    mentions = (
        each.argval if isinstance(each.argval, tuple) else (each.argval,) for each in dis.get_instructions(code)
    )
    if rest in code.co_cellvars or not READ_LOCALS.isdisjoint(code.co_names) or any(rest in each for each in mentions):
        return None
    return code.co_varnames[first:count]


def never_runs(function: Callable[..., Any]) -> str:
    """Return "async" or "a generator" if a call of ``function`` does not run its body; "" if it does."""
    function = _innermost(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "async"
    return "a generator" if inspect.isgeneratorfunction(function) else ""


def not_run(returned: object) -> bool:
    """Return whether a function returned something that would still have to be awaited, iterated or entered."""
    if isinstance(returned, (AbstractContextManager, AbstractAsyncContextManager)):
        return hasattr(returned, "gen")  # of contextlib.contextmanager
    return inspect.isawaitable(returned) or inspect.isgenerator(returned) or inspect.isasyncgen(returned)


def place_of(function: Callable[..., Any]) -> str:
    """Return file and line of ``function``; empty if it is not written in Python."""
    code = getattr(inspect.unwrap(_innermost(function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _innermost(function: Any) -> Any:
    """Return the function that is behind a partial, a bound method or an object with ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = getattr(function, "__call__", function)  # noqa: B004
    return getattr(function, "__func__", function)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return None
