"""What cannot be called is refused when it is attached, with callback, file and line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types

import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import CallbackError


class Async(TrainerCallback):
    async def on_step_end(self, args, state, control, **kwargs):
        pass


class AsyncGenerator(TrainerCallback):
    async def on_step_end(self, args, state, control, **kwargs):
        yield


class Generator(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        yield


class AsyncState(Async):
    on_step_end = TrainerCallback.on_step_end

    async def state_dict(self):
        return {}


class PartialOfAsync(TrainerCallback):
    def __init__(self):
        self.on_step_end = functools.partial(Async.on_step_end, self)


class WithoutKeywords(TrainerCallback):
    def on_save(self, args, state, control):
        pass


class WithAllKeywordsOfToday(TrainerCallback):
    def on_step_end(
        self, args, state, control, trainer, model, optimizer, lr_scheduler, train_dataloader, eval_dataloader,
        processing_class, tokenizer,
    ):  # fmt: skip
        pass


class AsksForTooMuch(TrainerCallback):
    def on_step_end(self, args, state, control, logs, **kwargs):
        pass


class ForgotSelf(TrainerCallback):
    def on_log(args, state, control, **kwargs):
        pass


class MonitorWithoutKeywords(TrainerCallback):
    def metrics_to_log(self, args, state):
        return {}


class StateThatNeedsMore(TrainerCallback):
    def load_state_dict(self, state, strict):
        pass


class NotAMethod(TrainerCallback):
    on_log = "epoch"


class MisspeltOnTheInstance(TrainerCallback):
    def __init__(self):
        self.on_stepend = lambda *args, **kwargs: None


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Async, "Async.on_step_end .* is async"),
        (AsyncGenerator, "AsyncGenerator.on_step_end .* is async"),
        (Generator, "Generator.on_step_end .* is a generator"),
        (AsyncState, "AsyncState.state_dict .* is async"),
        (PartialOfAsync, "PartialOfAsync.on_step_end .* is async"),
        (WithoutKeywords, "WithoutKeywords.on_save .* unexpected keyword argument 'trainer'"),
        (WithAllKeywordsOfToday, r"cannot be called as on_step_end\(args, state, control, \*\*kwargs\)"),
        (AsksForTooMuch, "missing a required argument: 'logs'"),
        (ForgotSelf, "too many positional arguments"),
        (MonitorWithoutKeywords, r"metrics_to_log .* cannot be called as metrics_to_log\(args, state, \*\*kwargs\)"),
        (StateThatNeedsMore, r"cannot be called as load_state_dict\(state\): missing a required argument: 'strict'"),
        (NotAMethod, "NotAMethod.on_log .* is 'epoch', not a method"),
        (MisspeltOnTheInstance, "on_stepend .* is not an event. Did you mean 'on_step_end'"),
    ],
)
def test_a_method_that_cannot_do_its_work_is_refused_with_its_place(track, cls, message):
    run = track()

    with pytest.raises(CallbackError, match=rf"(?s){message}") as error:
        run.dispatcher.attach(cls())

    assert f"{__file__}:" in str(error.value)
    assert not run.dispatcher.attachments


def test_methods_that_are_set_on_an_instance_count(track):
    heard = []
    simple = types.SimpleNamespace(on_step_end=lambda args, state, control, **kwargs: heard.append(state.global_step))

    track(simple).step(2)

    assert heard == [1, 2]


def test_a_name_is_not_a_callback(track):
    with pytest.raises(CallbackError, match="not the name 'early_stopping'; names go into the training arguments"):
        track("early_stopping")


def test_methods_of_any_shape_that_can_be_called_are_taken(track):
    class Shapes(TrainerCallback):
        on_epoch_begin = None  # switched off

        def on_step_begin(self, *args, **kwargs):
            pass

        @staticmethod
        def on_step_end(args, state, control, **kwargs):
            pass

        @classmethod
        def on_log(cls, args, state, control, logs, **kwargs):
            pass

        def on_save(self, args, state, control, *, checkpoint=None, **_):
            pass

    run = track(Shapes())
    run.step()
    run.log(loss=1.0)

    assert run.dispatcher.attachments["shapes"].calls == 2


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("kind", ["coroutine", "generator", "context"])
def test_a_coroutine_that_a_plain_method_returns_is_a_failure(track, kind, background):
    class Hidden(TrainerCallback):
        role = "observer"

        def __init__(self):
            if kind == "coroutine":
                self.on_step_end = lambda *args, **kwargs: Async().on_step_end(*args, **kwargs)
            else:
                self.on_step_end = lambda *args, **kwargs: (number for number in range(3))
            if kind == "context":
                self.on_step_end = contextlib.contextmanager(self.on_step_end)

    run = track()
    run.dispatcher.attach(Hidden(), background=background)
    run.send("on_train_begin")
    run.step()
    run.send("on_train_end")

    assert "whose body is never run" in str(run.dispatcher.attachments["hidden"].last_error)


def test_a_wrapped_method_is_judged_by_the_wrapper(track):
    def runs(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            with contextlib.suppress(StopIteration):
                function(*args, **kwargs).send(None)

        return wrapper

    heard = []

    class Runs(TrainerCallback):
        @runs
        async def on_step_end(self, args, state, control, **kwargs):
            heard.append(state.global_step)

    track(Runs()).step()

    assert heard == [1]


class Proxy:
    """Passes on what it is asked for, and lists none of it."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


def test_methods_that_are_found_by_getattr_alone_count(track):
    heard = []
    inner = types.SimpleNamespace(on_step_end=lambda args, state, control, **kwargs: heard.append(state.global_step))

    track(Proxy(inner)).step(2)

    assert heard == [1, 2]


class Slots:
    __slots__ = ("steps",)

    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@dataclasses.dataclass
class Equal:
    steps: int = 0

    on_step_end = Slots.on_step_end


class Incomparable(Slots):
    __slots__ = ()

    def __eq__(self, other):
        raise RuntimeError("cannot be compared")

    __hash__ = None


@pytest.mark.parametrize("cls", [Slots, Equal, Incomparable])
def test_a_callback_may_have_slots_and_need_not_be_hashable_or_comparable(track, cls):
    first, second = cls(), cls()
    run = track(first, second)

    run.step()
    removed = run.dispatcher.remove(second)
    run.step()

    assert (first.steps, second.steps, removed is second) == (2, 1, True)
    if hasattr(first, "state_dict"):
        run.dispatcher.load_state_dicts(run.dispatcher.state_dicts())
        assert first.steps == 2
