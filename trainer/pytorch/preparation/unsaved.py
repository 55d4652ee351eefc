"""What tells whether training has changed numbers and tensors of modules and optimizers that no checkpoint holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ...base_engine.unsaved import SAMPLE, MarkOf, Marks, StateOf, attributes_of, marks_in, marks_of_holders, spread
from .._compat import non_persistent_buffers


def marks_of(trainer: Any, model: nn.Module) -> Marks:
    """Yield the marks of what is in none of the states of a trainer's parts.

    Looked at are the attributes of the model's modules, and their buffers with ``persistent=False``; the loss, of which
    no checkpoint holds anything; the optimizer, if its class is the user's and has torch's own ``state_dict()``; and
    what the trainer, its datasets and its callbacks have.
    """
    loss_fn, optimizer = trainer.loss_fn, trainer.optimizer
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.") or _has_extra_state(module):
            continue
        unsaved = non_persistent_buffers(module)
        buffers = {key: value for key, value in module._buffers.items() if key in unsaved}
        yield from marks_in(_public({**attributes_of(module), **buffers}), f"{name}." if name else "", _of_tensor)
    if loss_fn is not None and not isinstance(loss_fn, type):
        buffers = dict(loss_fn.named_buffers()) if isinstance(loss_fn, nn.Module) else {}
        own = attributes_of(loss_fn) if hasattr(loss_fn, "__dict__") else {}
        yield from marks_in(_public({**own, **buffers}), "loss_fn.", _of_tensor)
    kind = type(optimizer)
    if kind.state_dict is Optimizer.state_dict and not kind.__module__.startswith(("torch.", "trackside.")):
        for name, mark in marks_in(_public(vars(optimizer)), "optimizer.", _of_tensor):
            yield name, StateOf([mark])  # it may make its counter in its first step
    yield from marks_of_holders(trainer, _mark_of(trainer, model))


def _mark_of(trainer: Any, model: nn.Module) -> MarkOf:
    """Return a function that marks tensors, modules and optimizers that are not those of the run."""
    known: set[int] = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    known |= {id(group) for group in getattr(trainer.optimizer, "param_groups", ())}
    of_run = (trainer.loss_fn, trainer.optimizer)

    def mark_of(value: Any) -> Any:
        if any(value is each for each in of_run):
            return None
        if isinstance(value, nn.Module):
            tensors = [tensor for tensor in (*value.parameters(), *value.buffers()) if id(tensor) not in known]
            return StateOf(map(_sample, spread(tensors))) if tensors else None
        if isinstance(value, Optimizer):
            states = [value.state[parameter] for parameter in value.state]
            tensors = [part for state in states for part in state.values() if isinstance(part, Tensor)]
            is_of_run = any(id(group) in known for group in value.param_groups)
            return None if is_of_run else StateOf((len(states), *map(_sample, spread(tensors))))
        return _of_tensor(value)

    return mark_of


def _sample(tensor: Tensor) -> str:
    """Return the first values of a tensor as text; they may change without a new version."""
    return repr(tensor.detach().reshape(-1)[:SAMPLE].tolist())


def _of_tensor(value: Any) -> Any:
    return (id(value), value._version) if isinstance(value, Tensor) else None


def _public(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("_") and name != "training"}


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state
