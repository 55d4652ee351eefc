"""Keras adapter: Keras callbacks on either trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.callbacks._util.exact_data import returned
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import CallbackError
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.callbacks.types import Role

from ._keras.fit import EndedEpoch, Fit, plain_names
from ._keras.kept_state import changed, kept_attributes
from ._keras.known_callbacks import (
    BATCH_HOOKS,
    ON_FIRST_RANK,
    check_callback,
    check_run,
    is_a,
    needs_batches,
    outside_state,
    overrides,
    prepare_resumed,
    remove,
    set_direction,
    undo_swap,
)


class KerasCallbackAdapter(TrainerCallback):
    """Call a Keras callback when ``Model.fit``, ``evaluate`` and ``predict`` would call it, with the same logs.

    A Keras batch is an update of the trainer. ``logs`` holds the mean loss of the examples of the epoch so far and, at
    the end of an epoch, the metrics of the evaluations in it, under names that begin with ``val_``. Several adapters of
    a trainer share one ``logs`` dict and one model, as callbacks in ``fit`` do. ``on_epoch_end`` comes after the
    evaluation that the arguments request at the end of the epoch, and before the checkpoint. As in ``fit``, an
    exception ends the run without ``on_train_end``.

    ``model`` is the trainer's Keras model, compiled with the trainer's optimizer and loss until the run ends. Setting
    its ``stop_training`` stops the run; a learning rate set on its ``optimizer`` holds from the next update on. With
    Trainer, it is a proxy of the PyTorch model, and callbacks that need a Keras model are refused.

    The attributes that the callback changes during a run are in the checkpoint: numbers, text, arrays and collections
    of them. Weights that it keeps, as ``EarlyStopping(restore_best_weights=True)`` does, make ``trainer_state.json`` as
    large as the weights.

    A callback with a method for training batches costs a wait for the device after each update, which reads the loss;
    others cost one at the end of an epoch.

    Args:
        callback: Instance of a subclass of ``keras.callbacks.Callback``.

    Raises:
        CallbackError: If ``callback`` is not such an instance, or is one that the trainer replaces.

    Attributes:
        callback: The Keras callback.
        adapted: The same; two adapters of different callbacks are not duplicates.
    """

    role: Role = "control"

    def __init__(self, callback: Any) -> None:
        check_callback(callback)
        self.callback: Any = callback
        self.adapted: Any = callback
        self.name: str | None = f"keras_{type(callback).__name__}"
        self._fit: Fit | None = None
        self._reported: EndedEpoch | None = None
        self._baseline: dict[str, Any] = {}
        self._restored: Mapping[str, Any] | None = None
        self._error: Exception | None = None
        self._phase: str | None = None
        self._batch = self._begun = 0
        self._sums = (0.0, 0.0)
        self._logged: float | None = None
        self._was_swapped = self._is_failed = self._is_silent = self._has_own_schedule = False
        batches = {"on_step_begin": self._on_step_begin, "on_step_end": self._on_step_end}
        for event, method in {**batches, "on_prediction_step": self._on_prediction_step}.items():
            if needs_batches(callback, event):  # a listener may keep updates from being fused
                setattr(self, event, method)

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._has_own_schedule = kwargs.get("lr_scheduler") is not None
        self._check(args, kwargs)

    def _check(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        report = getattr(kwargs.get("trainer"), "callback_report", {})
        if any(item.callback is self and item.thread is not None for item in report.values()):
            raise CallbackError(f"{self.name} reads the loss and the model, and cannot do so in the background")
        check_run(self.callback, args, kwargs, has_own_schedule=self._has_own_schedule)

    # -- training -------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._check(args, kwargs)
        if kwargs.get("current_epoch") is not None:  # in a replay it is
            kwargs["current_epoch"].watch_loss()
        fit = self._join(args, state, kwargs, is_run=True)
        restored, self._restored = self._restored, None
        if restored is not None:
            prepare_resumed(self.callback, restored.get("outside", {}))
        set_direction(self.callback)
        self._call(control, "on_train_begin", {})
        self._baseline = kept_attributes(self.callback)
        if restored is not None:
            vars(self.callback).update(returned(restored["attributes"]))
            if restored.get("ended") is not None:
                fit.ended = fit.ended or EndedEpoch(**restored["ended"])

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        fit = self._joined(args, state, kwargs)
        self._report_epoch(control)  # its evaluation did not come
        if self is _members(kwargs, self)[0]:
            fit.begin_epoch(state, kwargs.get("current_epoch"))
        self._call(control, "on_epoch_begin", fit.epoch, {})

    def _on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        batch = state.global_step - self._joined(args, state, kwargs).first_step
        if overrides(self.callback, *BATCH_HOOKS["on_step_begin"]):
            self._call(control, "on_train_batch_begin", batch, logs={})

    def _on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        batch = state.global_step - 1 - self._joined(args, state, kwargs).first_step
        self._call(control, "on_train_batch_end", batch, logs=_logs(self._loss(kwargs)))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._logged = kwargs["logs"].get("loss", self._logged)

    def _loss(self, kwargs: Mapping[str, Any]) -> float | None:
        """Return the mean loss of the epoch so far; in a replay, the newest in a record. Waits for the device."""
        return self._logged if kwargs.get("current_epoch") is None else kwargs["current_epoch"].mean_loss()

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        fit = self._joined(args, state, kwargs)
        if self is _members(kwargs, self)[0]:
            is_replay = kwargs.get("current_epoch") is None  # where no flag is set
            waits = control.should_evaluate or (is_replay and args.eval_strategy == "epoch")
            fit.end_epoch(self._loss(kwargs), waits=waits)
        if fit.ended is not None and not fit.ended.waits:
            self._report_epoch(control)

    def _report_epoch(self, control: TrainerControl) -> None:
        """Call on_epoch_end for the epoch that ended, unless that was done."""
        fit = self._fit
        if fit is not None and fit.ended is not None and self._reported is not fit.ended:
            self._reported = ended = fit.ended
            self._call(control, "on_epoch_end", ended.number, ended.logs)
            if fit.model.history is not None and fit.last is self:
                fit.model.history.on_epoch_end(ended.number, ended.logs)

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_failed = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        fit, is_failed, self._is_failed = self._fit, self._is_failed, False
        if fit is None:
            return
        try:
            if not is_failed:
                self._end_phase(control, {})  # of an evaluation that a signal has ended
                if state.stopped_by is None:
                    self._report_epoch(control)
                self._call(control, "on_train_end", {} if fit.ended is None else fit.ended.logs)
        finally:
            self._leave(kwargs)

    # -- evaluation and prediction ----------------------------------------------------------------------------------

    def on_evaluate_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._begin_phase("test", args, state, control, kwargs)

    def on_predict_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._was_swapped = getattr(self.callback, "_ema_weights_in_model", False)
        self._begin_phase("predict", args, state, control, kwargs)

    def _begin_phase(
        self, phase: str, args: Any, state: TrainerState, control: TrainerControl, kwargs: Mapping[str, Any]
    ) -> None:
        self._joined(args, state, kwargs)
        if kwargs.get("current_epoch") is not None:
            kwargs["current_epoch"].settle()  # updates that wait in a queue change the weights
        self._end_phase(control, {})  # of an evaluation that was cut short
        self._phase, self._batch, self._begun, self._sums = phase, 0, 0, (0.0, 0.0)
        self._call(control, f"on_{phase}_begin", {})
        if "on_prediction_step" in vars(self):
            self._begin_batch(control)

    def _begin_batch(self, control: TrainerControl) -> None:
        self._call(control, f"on_{self._phase}_batch_begin", self._batch, logs={})
        self._begun = self._batch + 1

    def _on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._phase is None:  # prediction_loop(), called by itself
            return
        if self._begun <= self._batch:
            self._begin_batch(control)
        current = kwargs["evaluation_batch"]
        self._call(control, f"on_{self._phase}_batch_end", self._batch, logs=self._batch_logs(current.result))
        self._batch += 1
        if not current.is_last:
            self._begin_batch(control)

    def _batch_logs(self, result: Any) -> dict[str, Any]:
        """Return the outputs of a prediction's batch, or the mean loss of an evaluation so far (waits for it)."""
        if self._phase == "predict":
            return {} if result is None else {"outputs": result.logits}
        if result is not None and result.loss is not None:
            weight = float(result.weight)
            self._sums = self._sums[0] + float(result.loss) * weight, self._sums[1] + weight
        return _logs(self._sums[0] / self._sums[1] if self._sums[1] else None)

    def _end_phase(self, control: TrainerControl, logs: dict[str, Any]) -> None:
        phase, self._phase = self._phase, None
        if phase is not None:
            self._call(control, f"on_{phase}_end", logs)
            if phase == "predict" and not self._was_swapped:
                undo_swap(self.callback)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        fit, members = self._joined(args, state, kwargs), _members(kwargs, self)
        if self is members[0]:
            fit.add_evaluation(kwargs["metrics"])
            for member in members:  # all of them before the first on_epoch_end, as in fit
                member._end_evaluation(control, plain_names(kwargs["metrics"]))
        error, self._error = self._error, None
        if error is not None:
            raise error
        if fit.is_run:
            if fit.ended is not None and not fit.ended.waits:
                self._report_epoch(control)
        else:
            self._leave(kwargs)

    def _end_evaluation(self, control: TrainerControl, logs: dict[str, Any]) -> None:
        """Call on_test_end; an exception is raised when this adapter's turn comes."""
        try:
            self._end_phase(control, logs)
        except Exception as error:
            self._error = error

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        fit = self._joined(args, state, kwargs)
        self._end_phase(control, {})
        if not fit.is_run:
            self._leave(kwargs)

    # -- the run that the adapters of a trainer share -----------------------------------------------------------------

    def _join(self, args: Any, state: TrainerState, kwargs: Mapping[str, Any], *, is_run: bool) -> Fit:
        """Begin a run together with the other adapters of the trainer, or join the one that the first has begun."""
        first, *_, last = _members(kwargs, self) * 2
        if self is first:
            self._fit = Fit.of(args, state, kwargs, is_run=is_run)
        fit = self._fit = first._fit or Fit.of(args, state, kwargs, is_run=is_run)
        fit.last = last
        self._reported, self._phase, self._error = fit.ended, None, None
        self._is_silent = is_a(self.callback, *ON_FIRST_RANK) and not state.is_world_process_zero
        if not self._is_silent:
            self.callback.set_params(fit.params)
            self.callback.set_model(fit.model.given)
            if is_a(self.callback, "History"):
                fit.model.history = None
        return fit

    def _joined(self, args: Any, state: TrainerState, kwargs: Mapping[str, Any]) -> Fit:
        """Return the run, or what there is outside of one; joined now if that was not done."""
        return self._fit or self._join(args, state, kwargs, is_run=False)

    def _leave(self, kwargs: Mapping[str, Any]) -> None:
        fit, self._fit = self._fit, None
        if fit is not None and fit.last is self:
            fit.model.leave()

    def _call(self, control: TrainerControl, hook: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of the callback, and do as it asks: stop, or train on with another learning rate."""
        fit, name = self._fit, type(self.callback).__name__
        if fit is None or self._is_silent:
            return
        with fit.rate.taken_from(name):
            getattr(self.callback, hook)(*args, **kwargs)
        if fit.is_run and fit.model.stop_training:
            control.stop(f"{name} of Keras asked for it")

    def undo(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """Leave the model when the adapter is removed within a run; Keras does not call a removed callback again."""
        fit, self._fit = self._fit, None
        remove(self.callback, is_called=fit is not None and fit.is_run and not self._is_silent)
        if fit is not None and fit.last is self:
            fit.last = next((each for each in reversed(_members(kwargs, self)) if each is not self), None)
            if fit.last is None:
                fit.model.leave()

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        fit = self._fit
        if fit is None or not fit.is_run:
            return {}
        kept: dict[str, Any] = {"attributes": changed(kept_attributes(self.callback), self._baseline)}
        if fit.ended is not None and self._reported is not fit.ended:
            kept["ended"] = vars(fit.ended)
        outside = outside_state(self.callback)
        return {**kept, "outside": outside} if outside else kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restored = state


def _members(kwargs: Mapping[str, Any], own: KerasCallbackAdapter) -> list[KerasCallbackAdapter]:
    """Return the adapters of the trainer in the order of the calls."""
    report = getattr(kwargs.get("trainer"), "callback_report", {})
    attached = [item.callback for item in report.values() if item.detached_after is None]
    return [callback for callback in attached if isinstance(callback, KerasCallbackAdapter)] or [own]


def _logs(loss: float | None) -> dict[str, Any]:
    return {} if loss is None else {"loss": loss}
