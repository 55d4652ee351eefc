"""Choice of an optimizer or a schedule by name, and the check of its options."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import NoneType
from typing import Any, TypeVar

from trackside.callbacks._util.conversion import hints_of, in_words, members_of
from trackside.callbacks._util.signatures import signature_of
from trackside.callbacks.errors import (
    ArgumentError,
    TracksideError,
    TracksideTypeError,
    TracksideValueError,
    check_one_of,
    did_you_mean,
)

from ..calls import check_call

OptimizerClass = TypeVar("OptimizerClass")

logger: logging.Logger = logging.getLogger("trackside.trainer")

PLAIN = {bool, int, float, str, NoneType}

OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")

NO_OPTIONS = frozenset({"self", "params", "kwargs"})
"""Parameters of an optimizer's constructor that are not options."""


def choose_optimizer(
    args: Any,
    optimizers: Mapping[str, Callable[[Any], tuple[OptimizerClass, dict[str, Any]]]],
    of_groups: Collection[str] = (),
    **general: Any,
) -> tuple[OptimizerClass, dict[str, Any]]:
    """Return the class that ``args.optim`` names, and its options; ``args.optim_args`` takes precedence.

    Args:
        args: Read for optim and optim_args, and by the functions of the table.
        optimizers: Functions by name that return a class and the options that follow from the arguments.
        of_groups: Options that ``args.optim_args`` may have too, and which are of groups of parameters.
        general: Default options of any optimizer, unless the table or ``args`` have other values.

    Raises:
        ArgumentError: If the optimizer or an option is unknown; the message suggests the nearest name.
    """
    name = str(args.optim)
    check_one_of("optim", name, optimizers)
    read = _Reading(args)
    optimizer_cls, options = optimizers[name](read)
    _tell_unread(args, read)
    constructor: Any = optimizer_cls
    known = [name for name in inspect.signature(constructor.__init__).parameters if name not in NO_OPTIONS]
    given = dict(args.optim_args or {})
    check_options("optim_args", given, [*known, *of_groups], constructor.__name__)
    check_types("optim_args", given, constructor)
    return optimizer_cls, {**general, **options, **{name: given[name] for name in given if name not in of_groups}}


class _Reading:
    """Arguments, and the names of those that were read."""

    def __init__(self, args: Any) -> None:
        self.args, self.names = args, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.args, name)


def _tell_unread(args: Any, read: _Reading) -> None:
    """Warn of the options of Adam that are given to an optimizer that does not read them, on the first process."""
    unread = [name for name in OF_ADAM if name not in read.names and not args.is_default(name)]
    if unread and args.process_index == 0:
        given = " and ".join(f"{name}={getattr(args, name)!r}" for name in unread)
        logger.warning("%s has no effect: optim=%r does not take it", given, str(args.optim))


def check_made(optimizer: Any) -> None:
    """Raise TracksideValueError if an override of create_optimizer has made no optimizer."""
    if optimizer is None:
        raise TracksideValueError("create_optimizer() made no optimizer: it returns one, or sets self.optimizer")


def check_class_and_options(given: Any) -> None:
    """Check an ``optimizer_cls_and_kwargs``: a class of optimizer, which is called with groups, and its options.

    Raises:
        TracksideTypeError: If it is not such a pair, or the class cannot be called like this.
        ArgumentError: If an option is unknown; the message suggests the nearest name.
    """
    field = "optimizer_cls_and_kwargs"
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[1], Mapping):
        raise TracksideTypeError(f"{field} is a pair, (class of optimizer, dict of its options), not {given!r}")
    make, options = given[0], [name for name in given[1] if name != "params"]  # groups, which it is called with
    signature = signature_of(make) if callable(make) else None
    if signature is not None and all(item.kind is not item.VAR_KEYWORD for item in signature.parameters.values()):
        _, *known = signature.parameters or [""]
        check_options(field, dict.fromkeys(options), known, make.__name__)
    check_call(f"the class in {field}", make, "groups", keywords=options, makes_objects=True)


MODES = {"mode": ("min", "max"), "threshold_mode": ("rel", "abs")}
"""Options of a plateau schedule that are words."""


def plateau_options(args: Any, schedule_cls: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a plateau schedule, with the mode that follows from ``args.greater_is_better``.

    Raises:
        ArgumentError: If an option in ``args.lr_scheduler_kwargs`` is unknown; the message suggests the nearest name.
    """
    given = dict(args.lr_scheduler_kwargs or {})
    _, *known = inspect.signature(schedule_cls).parameters
    check_options("lr_scheduler_kwargs", given, known, "reduce_lr_on_plateau")
    for option, allowed in MODES.items():
        if (value := given.get(option, allowed[0])) not in allowed:
            near = did_you_mean(str(value), allowed)
            raise ArgumentError("lr_scheduler_kwargs", given, f"{option} is one of {', '.join(allowed)}.{near}")
    with values_of("lr_scheduler_kwargs", given, "reduce_lr_on_plateau"):
        if not float(given.get("factor", 0.1)) < 1.0:
            raise ArgumentError("lr_scheduler_kwargs", given, "factor is below 1")
    return {"mode": "max" if args.greater_is_better else "min", **given}


@contextmanager
def values_of(field: str, options: Mapping[str, Any] | None, owner: str) -> Iterator[None]:
    """Return a context in which an error about a value is one about the options that an argument gives.

    Args:
        field: The argument.
        owner: Name of the object that has the options.

    Raises:
        ArgumentError: If a value is refused and there are options.
    """
    try:
        yield
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, TracksideError) or not options:
            raise
        raise ArgumentError(field, dict(options), f"values that {owner} takes; it says: {error}") from error


def check_types(field: str, options: Mapping[str, Any], owner: Callable[..., Any]) -> None:
    """Check options that are true or false, a number or a text by their annotation, or else by their default.

    Args:
        field: The argument that gives the options.
        owner: What is called with them.

    Raises:
        ArgumentError: If one is a text or a bool where it is to be something else.
    """
    hints, parameters = hints_of(owner), inspect.signature(owner).parameters
    for option, value in options.items():
        default = parameters[option].default if option in parameters else None
        hint: Any = hints.get(option, float if type(default) is int else type(default))
        kinds = members_of(hint)
        is_known = {NoneType} < {NoneType, *kinds} <= PLAIN
        if is_known and type(value) in (bool, str) and type(value) not in kinds:
            raise ArgumentError(field, dict(options), f"{option} as {in_words(hint, none='None')}, not {value!r}")


def check_options(field: str, options: Mapping[str, Any], known: Collection[str], owner: str) -> None:
    """Check the options given by an argument.

    Args:
        field: The argument.
        owner: Name of the object that has the options ``known``.

    Raises:
        ArgumentError: If an option is unknown; the message suggests the nearest name.
    """
    for option in options:
        if option not in known:
            allowed = f"{owner} takes {', '.join(known) or 'nothing'}.{did_you_mean(option, known)}"
            raise ArgumentError(field, dict(options), allowed)
