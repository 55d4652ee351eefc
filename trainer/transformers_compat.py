"""Compatibility with the transformers Trainer: its methods without a counterpart, and alternatives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

INSTEAD = {
    "push_to_hub": "upload the folder that save_model() writes with huggingface_hub.upload_folder()",
    "_get_train_sampler": "override get_train_dataloader",
    "_get_eval_sampler": "override get_eval_dataloader",
    "_inner_training_loop": "listen to the events of the loop",
    "_load_from_checkpoint": "listen to on_load",
    "_load_best_model": "read state.best_model_checkpoint after train()",
    "_maybe_log_save_evaluate": "listen to on_log, on_evaluate and on_save",
    "_prepare_input": "change batches in a data_collator",
    "_prepare_inputs": "change batches in a data_collator",
    "_save": "override save_model",
    "_save_checkpoint": "listen to on_save",
    "_wrap_model": "wrap the model before the trainer gets it",
}
"""Methods and attributes of that Trainer, with the alternatives here."""


ON_TENSORFLOW = {
    "get_train_dataloader": "override get_train_tfdataset",
    "get_eval_dataloader": "override get_eval_tfdataset",
    "get_test_dataloader": "override get_test_tfdataset",
    "_log": "override log",
    "setup_wandb": "attach the callback wandb",
    "setup_comet": "attach the callback comet",
}
"""Methods of the PyTorch trainer and of the original TFTrainer, with the alternatives on TFTrainer."""


def warn_of_unused_overrides(trainer: object, base: type, table: Mapping[str, str] = INSTEAD) -> None:
    """Warn about every method of a subclass of ``base`` that the transformers Trainer calls and this one does not."""
    for name, instead in table.items():
        own = getattr(type(trainer), name, None)
        if own is not None and own is not getattr(base, name, None):
            warnings.warn(f"{type(trainer).__name__}.{name} is never called: {instead}", UserWarning, stacklevel=4)


def advice(trainer: object, name: str) -> str:
    """Return the message of an AttributeError for ``name``, with the alternative."""
    instead = f": {INSTEAD[name]}" if name in INSTEAD else ""
    return f"{type(trainer).__name__!r} object has no attribute {name!r}{instead}"
