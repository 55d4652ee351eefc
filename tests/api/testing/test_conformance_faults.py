"""The faults of callbacks that the check finds and names: three bad callbacks, and one fault each."""

from __future__ import annotations

import dataclasses
import enum
import random
import signal
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from trackside import PrinterCallback, TrainerCallback
from trackside.callbacks.errors import ArgumentError
from trackside.testing import ConformanceError, check_callback, installed_frameworks

HERE = Path(__file__).name


class Meddler(TrainerCallback):
    """Changes what belongs to the run, and cannot be called as it has to be."""

    role = "observer"

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs["extra"] = 1.0

    def on_step_end(self, args, state, control, **kwargs):
        state.log_history.append({"step": state.global_step})
        control.should_log = True

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        random.random()
        weights = list(model.parameters()) if hasattr(model, "parameters") else model.trainable_variables
        weights[0].data.zero_() if hasattr(weights[0], "data") else weights[0].assign(0 * weights[0])

    def on_predict(self, args, state, control, **kwargs):
        raise RuntimeError("no predictions, please")

    def on_step_ends(self, args, state, control, **kwargs):
        pass

    def on_save(self, args):
        pass

    async def on_load(self, args, state, control, **kwargs):
        pass


class Forgetful(TrainerCallback):
    """Loses its state in every way."""

    seen = []

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen += state["seen"]

    def accepts_state(self, args, state):
        return False

    def on_log(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)


class OneRunOnly(TrainerCallback):
    """Believes that there is one run, in the main thread, and that values are numbers."""

    role = "observer"
    background = True

    def __init__(self):
        self.thread = threading.get_ident()
        self.runs = 0
        self.ended = threading.Event()

    def on_train_begin(self, args, state, control, **kwargs):
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        self.lines = []
        self.runs += 1
        if self.runs > 1:
            raise RuntimeError("one run is enough")
        threading.Thread(target=self.ended.wait, args=(20,), name="forgotten").start()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.lines.append(metrics)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if threading.get_ident() != self.thread:
            raise OSError("made in another thread")
        for value in logs.values():
            format(value, ".3f")

    def on_train_end(self, args, state, control, **kwargs):
        del self.lines


FAULTS = {
    Meddler: [
        ("Meddler.on_log", "changes logs; work on a copy"),
        ("Meddler.on_step_end", "changes state.log_history"),
        ("Meddler.on_step_end", 'steers the run, but its role is "observer"'),
        ("Meddler.on_step_begin", "draws from the global random numbers"),
        ("Meddler.role", 'changes the losses or the weights of a run, but its role is "observer"'),
        (
            "Meddler.on_predict",
            "raised RuntimeError: no predictions, please, in predict() and",
        ),
        ("Meddler.on_step_ends", "is not an event. Did you mean 'on_step_end'?"),
        ("Meddler.on_save", "cannot be called as on_save(args, state, control, **kwargs)"),
        ("Meddler.on_load", "is async"),
    ],
    Forgetful: [
        ("Forgetful.load_state_dict", "after a run loses state"),
        ("Forgetful.state_dict", "returns state that all callbacks of the class share"),
        ("Forgetful.accepts_state", "refuses the state that a callback of the class has saved"),
    ],
    OneRunOnly: [
        ("OneRunOnly.on_evaluate", "'OneRunOnly' object has no attribute 'lines', in evaluate() before any train()"),
        (
            "OneRunOnly.on_train_begin",
            "raised RuntimeError: one run is enough, in a second train(); a",
        ),
        ("OneRunOnly.on_train_begin", "raised ValueError: signal only works in main thread"),
        ("OneRunOnly.on_log", "raised OSError: made in another thread, in a resumed train() in the background"),
        (
            "OneRunOnly.on_log",
            "unsupported format string passed to NoneType.__format__, given {'odd_none': None}",
        ),
        ("OneRunOnly.on_train_end", "leaves the thread 'forgotten' running"),
    ],
}


@pytest.mark.parametrize("cls", FAULTS)
def test_every_fault_is_listed_with_its_place_and_what_to_do(cls):
    with pytest.raises(ConformanceError) as raised:
        check_callback(cls, frameworks=installed_frameworks()[:1])

    for hook, fault in FAULTS[cls]:
        assert any(f"{hook} (" in found and HERE in found and fault in found for found in raised.value.faults), (
            fault,
            raised.value.faults,
        )
    assert str(raised.value).startswith(f"{cls.__name__} is not a good callback:\n- ")


class Kind(enum.Enum):
    SMALL = "small"


Pair = namedtuple("Pair", ["one", "two"])


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"value": object()}, "is not JSON: state_dict()['value'] is of type object"),
        ([1], "returns [1]; return a dict"),
        ({"kind": Kind.SMALL}, "loses state: {'kind': <Kind.SMALL: 'small'>} becomes {'kind': 'small'}"),
        ({"pair": Pair(1, 2)}, "loses state: {'pair': Pair(one=1, two=2)} becomes {'pair': (1, 2)}"),
    ],
)
def test_a_state_that_a_checkpoint_changes_is_a_fault(state, fault):
    class Keeps(TrainerCallback):
        kept = state

        def state_dict(self):
            return self.kept

        def load_state_dict(self, state):
            self.kept = state

        def on_log(self, args, state, control, **kwargs):
            pass

    with pytest.raises(ConformanceError) as raised:
        check_callback(Keeps, frameworks=[])

    assert fault in str(raised.value)
    assert HERE in str(raised.value)


def test_a_state_that_grows_when_it_is_restored_twice_is_a_fault():
    class Grows(TrainerCallback):
        def __init__(self):
            self.seen = [1]

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = [*self.seen, *state["seen"]][-3:]

        def on_log(self, args, state, control, **kwargs):
            pass

    with pytest.raises(ConformanceError, match="loses state"):
        check_callback(Grows, frameworks=[])


def test_a_role_that_does_not_exist_is_a_fault():
    class Watches(TrainerCallback):
        role = "watcher"

        def on_log(self, args, state, control, **kwargs):
            pass

    with pytest.raises(ConformanceError, match="cannot be attached: Watches: role='watcher' is not allowed"):
        check_callback(Watches)


def test_a_framework_that_does_not_exist_is_an_error():
    with pytest.raises(ArgumentError, match="frameworks"):
        check_callback(PrinterCallback, frameworks=["pytroch"])


def test_importing_a_framework_with_the_module_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "eager_callback.py").write_text(
        "import json as torch, sys\nsys.modules['torch'] = torch\n"
        "from trackside import TrainerCallback\n"
        "class Eager(TrainerCallback):\n    def on_log(self, *args, **kwargs): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", __import__("sys").modules.get("torch"))
    import eager_callback

    with pytest.raises(ConformanceError, match="importing eager_callback imports torch"):
        check_callback(eager_callback.Eager, frameworks=[])


@dataclasses.dataclass(frozen=True)
class Frozen:
    def on_log(self, args, state, control, logs=None, **kwargs):
        logs["extra"] = 1.0


class Slots(Frozen):
    __slots__ = ("kept",)
    role = "observer"

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs)

    def on_predict(self, args, state, control, **kwargs):
        raise RuntimeError("no predictions, please")

    def on_save(self, args):
        pass


def test_a_class_that_takes_no_attributes_is_watched_all_the_same():
    with pytest.raises(ConformanceError) as frozen:
        check_callback(Frozen, frameworks=installed_frameworks()[:1])
    with pytest.raises(ConformanceError) as slots:
        check_callback(Slots, frameworks=installed_frameworks()[:1])

    assert [found.partition(" (")[0] for found in frozen.value.faults] == ["Frozen.on_log"]
    assert "changes logs" in frozen.value.faults[0]
    found = {hook: next(each for each in slots.value.faults if each.startswith(f"Slots.{hook} (")) for hook in
             ("on_log", "on_predict", "on_save")}  # fmt: skip
    assert "changes logs" in found["on_log"]
    assert "raised RuntimeError: no predictions, please" in found["on_predict"]
    assert "cannot be called" in found["on_save"]
    assert all(HERE in each for each in found.values())
