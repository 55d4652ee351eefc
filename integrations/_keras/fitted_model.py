"""The model that a Keras callback gets: with what ``Model.fit`` needs of a model, for the time of a run."""

from __future__ import annotations

from typing import Any

from trackside.callbacks.errors import CallbackError

ABSENT = object()


def fitted(model: Any, optimizer: Any, loss: Any) -> Any:
    """Return a Keras model itself, as ``fit`` has it, and a stand-in for any other model; `leave` undoes it."""
    return _KerasModel(model, optimizer, loss) if is_keras_model(model) else _Standing(model, optimizer)


def is_keras_model(model: Any) -> bool:
    """Return whether a model is one of Keras 3."""
    import keras

    return isinstance(model, keras.Model)


class _KerasModel:
    """A Keras model that is compiled with the trainer's optimizer and loss until `leave` is called.

    Attributes:
        given: The model.
        history: The ``model.history``, unless one of the callbacks is a History; then None.
    """

    def __init__(self, model: Any, optimizer: Any, loss: Any) -> None:
        import keras

        before = dict(vars(model))
        if not model.compiled:
            # the loss scale is the trainer's; only callbacks that evaluate call these functions
            model.compile(optimizer="sgd", loss=loss, jit_compile=False, auto_scale_loss=False)
        # not by setattr, which would make the optimizer a part of the model
        vars(model).update(stop_training=False)
        if optimizer is not None:
            config: Any = getattr(model, "_compile_config", None)
            vars(model)["optimizer"] = optimizer
            if hasattr(config, "config"):  # what a saved model is compiled with
                vars(model)["_compile_config"] = type(config)(**{**config.config, "optimizer": _of_keras(optimizer)})
        self.history = keras.callbacks.History()
        self.history.set_model(model)
        self.history.on_train_begin()
        vars(model)["history"] = self.history
        now = vars(model)
        self._before = {name: before.get(name, ABSENT) for name in now if now[name] is not before.get(name, ABSENT)}
        self.given = model

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked to stop."""
        return bool(self.given.stop_training)

    def leave(self) -> None:
        """Leave the model as it was, except for its weights and what callbacks have set on it."""
        own = vars(self.given)
        for name, value in self._before.items():
            if value is ABSENT:
                own.pop(name, None)
            else:
                own[name] = value


def _of_keras(optimizer: Any) -> Any:
    """Return an optimizer of the class of Keras that one of trackside derives from, which any Keras loads."""
    if not type(optimizer).__module__.startswith("trackside."):
        return optimizer
    base: Any = next(cls for cls in type(optimizer).__mro__ if cls.__module__.startswith("keras."))
    config = optimizer.get_config()
    if base.__name__ == "AdamW":  # the only one that does not take None
        config["weight_decay"] = config["weight_decay"] or 0.0
    return base.from_config(config)


class _Standing:
    """A stand-in for a model that is not of Keras.

    Attributes:
        given: A proxy of it, with the attributes that a Keras callback expects during ``Model.fit``.
    """

    history = None

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.given = FittedModel(model, optimizer)

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked to stop."""
        return bool(self.given.stop_training)

    def leave(self) -> None:
        """Do nothing: the model was not changed."""


class FittedModel:
    """A proxy of a model.

    Args:
        model: Model that all other attributes are read from and set on, and that calls are passed to.
        optimizer: Optimizer of the trainer.
    """

    OWN = frozenset({"history", "optimizer", "stop_training", "train_function"})

    def __init__(self, model: Any, optimizer: Any) -> None:
        shown = None if optimizer is None else FittedOptimizer(optimizer)
        vars(self).update(model=model, optimizer=shown, stop_training=False, train_function=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["model"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.OWN:
            vars(self)[name] = value
        else:
            setattr(vars(self)["model"], name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["model"](*args, **kwargs)


class FittedOptimizer:
    """A proxy of an optimizer that is not of Keras, whose learning rate callbacks read and do not set.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        vars(self)["optimizer"] = optimizer

    def __getattr__(self, name: str) -> Any:
        optimizer = vars(self)["optimizer"]
        return optimizer.param_groups[0]["lr"] if name == "learning_rate" else getattr(optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("learning_rate", "lr"):
            raise CallbackError(
                f"a Keras callback sets the {name} of {type(vars(self)['optimizer']).__name__}, which is not an "
                "optimizer of Keras: use lr_scheduler_type, or a schedule in optimizers=, or TFTrainer"
            )
        setattr(vars(self)["optimizer"], name, value)
