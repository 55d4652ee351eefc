"""Parameters of a run: those of the optimizer, those that only get gradients, and those that are unfrozen later."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.optim import Optimizer

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import TracksideValueError

from ...base_engine.engine import tell_of_other_model
from .belonging import parameters_elsewhere
from .factory import decay_parameter_names

logger: logging.Logger = logging.getLogger("trackside.trainer")


class RunParameters:
    """The parameters of a model and its optimizer, kept up to date without a walk over them in each update.

    A frozen parameter has a hook that tells if it gets a gradient after all. New modules and parameters, and groups
    that are added to the optimizer, are counted.

    Args:
        model: The model; wrappers make no difference.
        optimizer: The optimizer; None before there is one.
        parameters_of: Returns the parameters that the optimizer steps.
        holders: Returns objects whose optimizers have parameters that are unfrozen later to themselves.
        take_other: Prepares for another optimizer, which a callback has set on the trainer, and returns it.
        takes_late: Whether a parameter that is unfrozen later is added to the optimizer's groups: the first of them is
            decayed, and the second is not.
        is_distributed: Whether the gradients are exchanged between processes, which is settled before training.
        watches: Whether to watch parameters that the optimizer does not have; not if it has copies or shards.

    Attributes:
        optimizer: The optimizer at the last update.
        stepped: The parameters of the optimizer, whose gradients are clipped.
        others: Other parameters of the model that get gradients, which only an optimizer of the user may use.
        late: The places of parameters that were added to the optimizer: the index of the group, and the name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        parameters_of: Callable[[Optimizer], list[Tensor]] = lambda optimizer: [],
        holders: Callable[[], Iterable[object]] = tuple,
        take_other: Callable[[], Any] = lambda: None,
        *,
        takes_late: bool = False,
        is_distributed: bool = False,
        watches: bool = True,
    ) -> None:
        self._model = model
        self.optimizer: Any = optimizer
        self._parameters_of = parameters_of
        self._holders = holders
        self._take_other = take_other
        self._takes_late = takes_late
        self._is_distributed = is_distributed
        self._watches = watches
        self._hooks: dict[Tensor, Any] = {}
        self._woken: list[Tensor] = []
        self._told: set[Tensor] = set()
        self.late: list[tuple[int, str]] = []
        self.stepped: list[Tensor] = []
        self.others: list[Tensor] = []
        self._present: set[Tensor] = set()
        self._seen = (0, 0)
        if optimizer is not None:
            self._collect()

    @property
    def all(self) -> list[Tensor]:
        """All parameters that get gradients."""
        return [*self.stepped, *self.others]

    def update(self, optimizer: Any) -> bool:
        """Take what has changed since the last call into account, and return whether anything has.

        Called when the gradients of an update are complete.

        Args:
            optimizer: The trainer's optimizer now, which a callback may have replaced.

        Raises:
            TracksideValueError: If a parameter was unfrozen whose gradients are not exchanged between processes.
        """
        if optimizer is not self.optimizer:
            optimizer = self._take_other()
            self.optimizer = optimizer
        elif not self._woken and self._seen == self._version():
            return False
        self._take_woken()
        before = self._present
        self._collect()
        self._tell_of_new(before)
        return True

    def tell_of_another(self, model: nn.Module) -> None:
        """Warn if the trainer's model is no longer the one of this run."""
        if model is not self._model:
            tell_of_other_model()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()

    def add(self, places: Sequence[tuple[int, str]]) -> None:
        """Unfreeze parameters that the optimizer lacks, and add them to it, as in the run that is resumed."""
        if not places or not self._takes_late:
            return
        by_name = dict(self._model.named_parameters())
        stepped = set(self.stepped)
        for group, name in places:
            if name in by_name and by_name[name] not in stepped:
                self._adopt(by_name[name].requires_grad_(True), name, group)
        self._collect()

    def add_groups(self, groups: Sequence[Sequence[str]]) -> None:
        """Add the groups to the optimizer that a callback had added to it in the run that is resumed, by names."""
        named = {name.replace("_orig_mod.", ""): parameter for name, parameter in self._model.named_parameters()}
        for names in groups:
            stepped = set(self._parameters_of(self.optimizer))
            parameters = [named[name] for name in names if name in named and named[name] not in stepped]
            if len(parameters) == len(names):
                self.optimizer.add_param_group({"params": parameters})

    def _version(self) -> tuple[int, int]:
        """Return numbers of which one changes with a new module or parameter, or a parameter of the optimizer."""
        return registrations, sum([len(group["params"]) for group in self.optimizer.param_groups])

    def _collect(self) -> None:
        install_counter()
        self._seen = self._version()
        self.stepped = self._parameters_of(self.optimizer)
        if not self._watches:
            return
        self._present = {*self._model.parameters(), *self.stepped}
        known = set(self.stepped)
        parameters = [parameter for parameter in self._model.parameters() if parameter not in known]
        self.others = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in self._model.parameters():
            if not parameter.requires_grad and parameter not in self._hooks and _can_train(parameter):
                self._watch(parameter)

    def _watch(self, parameter: Tensor) -> None:
        """Have a frozen parameter tell of its first gradient."""
        note = partial(_note, weakref.ref(self))
        parameter.requires_grad_(True)  # torch accepts a hook only then, and keeps it
        try:
            self._hooks[parameter] = parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
        finally:
            parameter.requires_grad_(False)

    def note(self, parameter: Tensor) -> None:
        """Note that a frozen parameter got a gradient."""
        self._woken.append(parameter)
        self._hooks.pop(parameter).remove()

    # -- parameters that are unfrozen later ---------------------------------------------------------------------------

    def _take_woken(self) -> None:
        woken, self._woken = {*self._woken}, []
        names = {parameter: name for name, parameter in self._model.named_parameters() if parameter in woken}
        if names and self._is_distributed:
            raise TracksideValueError(
                f"{first_names([*names.values()])} were unfrozen after the model was distributed, so that their "
                "gradients are not exchanged between the processes. Give the trainer a model in which they are "
                "trainable; a callback can freeze them in on_train_begin"
            )
        known = {*self._parameters_of(self.optimizer), *parameters_elsewhere(self._holders(), self.optimizer)}
        new = {parameter: name for parameter, name in names.items() if parameter not in known}
        if not new:
            return
        if not self._takes_late:
            logger.warning(
                "%s were unfrozen, but are not in the optimizer, which was given to the trainer: they are not trained. "
                "optimizer.add_param_group adds them",
                first_names([*new.values()]),
            )
            return
        decayed = set(decay_parameter_names(self._model))
        for parameter, name in new.items():
            self._adopt(parameter, name, 0 if name in decayed else 1)
        logger.warning("%s were unfrozen, and are trained from this update on", first_names([*new.values()]))

    def _tell_of_new(self, before: set[Tensor]) -> None:
        """Warn of parameters that the model did not have before, and that no optimizer has."""
        new = {parameter for parameter in self.others if parameter not in before}
        new -= {*parameters_elsewhere(self._holders(), self.optimizer)} if new else set()
        if new:
            names = [name for name, parameter in self._model.named_parameters() if parameter in new]
            logger.warning(
                "%s came into the model when the optimizer was made already, and are not trained. "
                "optimizer.add_param_group adds them",
                first_names(names),
            )

    def _adopt(self, parameter: Tensor, name: str, index: int) -> None:
        group = self.optimizer.param_groups[index]
        group["params"].append(parameter)
        if "param_names" in group:
            group["param_names"].append(name)
        self.late.append((index, name))


def _note(owner: weakref.ref[RunParameters], parameter: Tensor) -> None:
    parameters = owner()
    if parameters is not None:
        parameters.note(parameter)


def _can_train(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.is_leaf and not parameter.is_inference()


# -- the count of new modules and parameters --------------------------------------------------------------------------

registrations = 0
"""Number of modules and parameters that were registered in any module of this process since the counter's start."""
_is_counting = False


def install_counter() -> None:
    """Begin to count registrations; torch calls its hooks for all modules of the process."""
    global _is_counting
    if not _is_counting:
        _is_counting = True
        register_module_module_registration_hook(_count)
        register_module_parameter_registration_hook(_count)


def _count(*_: Any) -> None:
    global registrations
    registrations += 1
