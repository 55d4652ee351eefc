"""What a model's own ``save_pretrained`` writes beside the weights of a checkpoint, for the library that it is of.

``save_pretrained`` is called on a stand-in: a copy of the tree of modules that shares everything with the model but its
weights, which are those of the checkpoint. So it writes the weights of the checkpoint's step, also in the background,
and also if it takes no ``state_dict``.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import non_persistent_buffers
from .files import (
    EXTRA_FILE,
    INDEX_FILE,
    OWN_FILE,
    WEIGHTS_FILE,
    holds,
    unless_foreign,
    weights_in,
    write_extra,
    write_rest,
    write_weights,
)
from .names import plain_name

logger: logging.Logger = logging.getLogger("trackside.trainer")


class ModelWriter:
    """Writes a model into folders: its weights, and what ``save_pretrained`` of the model and the tokenizer write.

    Args:
        model: The user's own model, without wrappers.
        weights: Its state dict by plain names, or copies of it.
        processing_class: The tokenizer, or the like; None without one.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Any], processing_class: Any) -> None:
        self.weights = weights
        self.name: str = type(model).__name__
        self._model = stand_in(model, weights) if weights and hasattr(model, "save_pretrained") else None
        self._processing_class = processing_class

    def __call__(self, folder: Path, *, is_final: bool = True) -> None:
        """Write everything into ``folder``.

        An export that fails leaves nothing behind; the weights are written nevertheless.

        Args:
            is_final: The folder is for others: models that are published under other names of their weights than their
                modules have are written so, and the error of a failed export is raised after the weights are written.
                Otherwise, in a checkpoint, transformers is asked for the names of the modules, which it reads as well,
                so that nothing is written twice; and the error is a warning.
        """
        for name in (WEIGHTS_FILE, INDEX_FILE):  # of an earlier save
            (folder / name).unlink(missing_ok=True)
        failure = self._export(folder, {} if is_final else {"save_original_format": False})
        self.complete(folder, is_final=is_final)
        if hasattr(self._processing_class, "save_pretrained"):
            self._processing_class.save_pretrained(folder)
        if failure is not None and is_final:
            raise failure
        if failure is not None:
            logger.warning("%s has no files of %s.save_pretrained, which failed: %r", folder, self.name, failure)

    def complete(self, folder: Path, *, is_final: bool = False) -> None:
        """Write the weights into ``folder``, unless files there hold exactly them.

        In a checkpoint, whose files stay as they are, only those are written that are not there under any name.
        """
        for name in (OWN_FILE, EXTRA_FILE):
            (folder / name).unlink(missing_ok=True)
        if not self._is_complete(folder):
            is_taken = any((folder / name).exists() for name in (WEIGHTS_FILE, INDEX_FILE))
            if is_taken and not is_final:
                write_rest(self.weights, folder)
            else:
                write_weights(self.weights, folder, OWN_FILE if is_taken else WEIGHTS_FILE)
        write_extra(self.weights, folder)

    def _is_complete(self, folder: Path) -> bool:
        with unless_foreign():
            return holds(folder, weights_in(folder), self.weights)
        return False

    def _export(self, folder: Path, options: Mapping[str, Any]) -> Exception | None:
        if self._model is None:
            return None
        before = set(os.listdir(folder))
        save: Any = self._model.save_pretrained
        try:
            taken = inspect.signature(save).parameters
            save(folder, **{name: value for name, value in options.items() if name in taken})
        except Exception as error:
            for name in set(os.listdir(folder)) - before:
                shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
            return error
        return None


def stand_in(model: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
    """Return a copy of the tree of modules of ``model`` with ``weights``, which shares everything else with it.

    Modules that torch.compile wraps are without the wrapper. Tensors that are not in the state dict are shared, except
    parameters and persistent buffers, which are copied.

    Source:
        torch.nn.Module._replicate_for_data_parallel, on which nn.DataParallel relies.
    """
    own = model.state_dict(keep_vars=True).items()
    known = {id(value): weights[plain_name(name)] for name, value in own if plain_name(name) in weights}
    return _stand_in(model, known, {})


def _stand_in(module: nn.Module, known: Mapping[int, Any], made: dict[int, Any]) -> nn.Module:
    inner = module._modules.get("_orig_mod")
    if inner is not None:
        return _stand_in(inner, known, made)
    if id(module) in made:
        return made[id(module)]  # type: ignore[no-any-return]
    if isinstance(module, torch.jit.ScriptModule):
        return made.setdefault(id(module), copy.deepcopy(module))  # type: ignore[no-any-return]
    twin = made[id(module)] = object.__new__(type(module))
    fields = vars(twin)
    fields.update(vars(module))
    fields["_parameters"] = {name: _weight(value, known, made) for name, value in module._parameters.items()}
    shared = non_persistent_buffers(module)
    fields["_buffers"] = {
        name: value if name in shared else _weight(value, known, made) for name, value in module._buffers.items()
    }
    fields["_modules"] = {
        name: None if child is None else _stand_in(child, known, made) for name, child in module._modules.items()
    }
    return twin


def _weight(own: Tensor | None, known: Mapping[int, Any], made: dict[int, Any]) -> Any:
    if own is None or nn.parameter.is_lazy(own):
        return own
    if id(own) not in made:
        value = known[id(own)] if id(own) in known else own.detach().clone()
        if isinstance(own, nn.Parameter) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=own.requires_grad)
            vars(value).update(vars(own))
        made[id(own)] = value
    return made[id(own)]
