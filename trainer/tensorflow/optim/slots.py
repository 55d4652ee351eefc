"""The variables of a Keras optimizer by what they belong to, and an optimizer that is built for other variables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from trackside.callbacks.errors import TracksideValueError

from ..snapshot import named_variables, uncounted
from ..weights import model_state
from ._compat import forget_variables, variables_known_to

AVERAGE = "average"
"""Kind of the variable that holds the average of a weight (``use_ema``)."""


def slot_ids(optimizer: Any, model: Any) -> dict[str, str]:
    """Return by the name of each variable of an optimizer what it is, whatever else the optimizer has.

    That is the index and the path of the model's variable that it belongs to, and its kind: "3:dense/kernel:momentum".
    """
    owners = [(index, each.path) for index, each in enumerate(model.weights)]
    seen: Counter[tuple[str, str]] = Counter()
    ids = {}
    for name, slot in named_variables(optimizer):
        prefixes = {path for _, path in owners if slot.name.startswith(path.replace("/", "_") + "_")}
        if not prefixes:
            own = uncounted(slot.name)
            ids[name] = f"{own}#{seen['', own]}" if seen["", own] else own
            seen["", own] += 1
            continue
        path = max(prefixes, key=len)
        kind = slot.name[len(path) + 1 :]
        same = [index for index, own in owners if own == path]
        ids[name] = f"{same[min(seen[path, kind], len(same) - 1)]}:{uncounted(path)}:{kind}"
        seen[path, kind] += 1
    return ids


def owner_of(slot_id: str) -> str:
    """Return the index and the path of the model's variable in one of `slot_ids`; empty if it belongs to none.

    Example:
        >>> owner_of("3:dense/kernel:momentum"), owner_of("iteration")
        ('3:dense/kernel', '')
    """
    return slot_id.rpartition(":")[0]


def variables_to_build(optimizer: Any, model: Any, owners: Sequence[str] = ()) -> list[Any]:
    """Return the variables of a model that are trainable, known to an optimizer, or among ``owners``, in its order."""
    known = {id(variable) for variable in (*model.trainable_variables, *variables_known_to(optimizer))}
    numbered = enumerate(model.weights)
    return [each for index, each in numbered if id(each) in known or f"{index}:{uncounted(each.path)}" in owners]


def rebuild(optimizer: Any, model: Any, variables: list[Any]) -> None:
    """Build an optimizer for other variables of a model; what it keeps of those that it knew stays.

    Raises:
        TracksideValueError: If the optimizer cannot be built a second time.
    """
    before = {key: (slot, model_state.held(slot)) for key, (slot, _) in _parts(optimizer, model).items()}
    if not forget_variables(optimizer):
        raise TracksideValueError(
            f"layers were unfrozen, but {type(optimizer).__name__} cannot be built for more variables. Make them "
            "trainable before train(), and freeze them in on_train_begin"
        )
    optimizer.build(variables)
    for key, (slot, owner) in _parts(optimizer, model).items():
        old, value = before.get(key, (None, None))
        if old is not None and old is not slot:
            slot.assign(value)
        elif old is None and owner is not None and slot.name.endswith(f"_{AVERAGE}"):  # Keras begins it only once
            slot.assign(owner)


def _parts(optimizer: Any, model: Any) -> dict[tuple[str, int], tuple[Any, Any]]:
    """Return the variables of an optimizer by what they are, each with the variable of the model that it belongs to.

    An attribute that is a list has one for each variable that the optimizer was built for; others are told by names.
    """
    known = variables_known_to(optimizer)
    found: dict[tuple[str, int], tuple[Any, Any]] = {}
    for name, value in vars(optimizer).items():
        if name != "_variables" and isinstance(value, list) and len(value) == len(known):
            pairs = zip(value, known, strict=True)
            found |= {(name, id(owner)): (slot, owner) for slot, owner in pairs if is_slot(slot, owner)}
        elif model_state.is_variable(value):
            found[name, 0] = value, None
    listed, ids = {id(slot) for slot, _ in found.values()}, slot_ids(optimizer, model)
    rest = {ids[name]: slot for name, slot in named_variables(optimizer) if id(slot) not in listed}
    return found | {(slot_id, 0): (slot, None) for slot_id, slot in rest.items() if owner_of(slot_id)}


def is_slot(value: Any, owner: Any) -> bool:
    """Return whether a value is a variable, and not the one that it would belong to."""
    return model_state.is_variable(value) and value is not owner
