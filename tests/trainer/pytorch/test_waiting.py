"""An update never waits for the device: no value is read from it but for a log, an evaluation or a save.

The device is ``meta``, which stands for an accelerator: its tensors have no values, so that reading one is seen, and
counted here by PyTorch's dispatcher. The first update is looked at by the trainer and may wait.
"""

from __future__ import annotations

import sys
import traceback
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._foreach_utils import _get_foreach_kernels_supported_devices as devices_with_foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainingArguments
from trackside.trainer.pytorch.batches import fetching

READS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default", "aten.unique2.default")

BY_INDEX = ("aten.index.Tensor", "aten.index_put_.default")

META = torch.device("meta")

UPDATES = 8


class Watch(TorchDispatchMode):
    """Counts the operations on the device, and notes each that the host waits for, by update."""

    def __init__(self):
        super().__init__()
        self.update = 0
        self.operations = Counter()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = str(func), kwargs or {}
        tensors = [item for item in args if isinstance(item, torch.Tensor)]
        if any(item.device == META for item in tensors):
            self.operations[self.update] += 1
        source = tensors[-1] if name == "aten.copy_.default" else next(iter(tensors), None)
        if source is None or source.device != META:
            return func(*args, **kwargs)
        to_host = torch.device(kwargs.get("device") or META).type == "cpu" or tensors[0].device.type == "cpu"
        masks = [item for item in args[1] if is_mask(item)] if name in BY_INDEX else []
        if name not in READS and not to_host and not masks:
            return func(*args, **kwargs)
        places = [
            f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack() if "trainer" in frame.filename
        ]
        self.waits.append((self.update, name, places[-1]))
        if name == READS[0]:
            return 1.0
        if masks:  # an index by a mask counts what is true in it
            return source.new_zeros((1, *source.shape[masks[0].dim() :]))
        return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)


def is_mask(item):
    return isinstance(item, torch.Tensor) and item.dtype == torch.bool


class OnMeta(TrainingArguments):
    """Arguments whose device stands for an accelerator."""

    @property
    def device(self):
        return META


class Tagger(nn.Module):
    """Returns a mean over the labels that are not -100, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(16, 8), nn.Linear(8, 4)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embedding(input_ids))
        if labels is None:
            return {"logits": logits}
        return {"loss": cross_entropy(logits.reshape(-1, 4), labels.reshape(-1)), "logits": logits}


def rows(count=256):
    return TensorDataset(torch.randn(count, 64), torch.arange(count) % 10)


def tokens(count=256):
    labels = torch.arange(6) % 4
    labels[::2] = -100
    return [{"input_ids": torch.arange(6), "labels": labels} for _ in range(count)]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@pytest.fixture(autouse=True)
def all_kernels_on_meta(monkeypatch):
    """Let the optimizers take the kernels that they take on a GPU."""
    found = [*devices_with_foreach(), "meta"]
    for name in ("_get_fused_kernels_supported_devices", "_get_foreach_kernels_supported_devices"):
        for module in (sys.modules["torch.optim.optimizer"], torch.utils._foreach_utils):
            monkeypatch.setattr(module, name, lambda: found, raising=False)


def watched(tmp_path, model, data, loss_fn=None, **arguments):
    """Train, and return the watch."""
    fixed = {"max_steps": UPDATES, "save_strategy": "no", "logging_steps": 100, "disable_tqdm": True}
    args = OnMeta(str(tmp_path), **{**fixed, **arguments})
    trainer = Trainer(model, args, train_dataset=data, loss_fn=loss_fn)
    watch = Watch()

    @trainer.on("on_step_end")
    def count(trainer, state):
        watch.update = state.global_step

    with watch:
        trainer.train()
    return watch


CASES = {
    "plain": (mlp, rows, cross_entropy, {}),
    "accumulation": (mlp, rows, cross_entropy, {"gradient_accumulation_steps": 3}),
    "no clipping": (mlp, rows, cross_entropy, {"max_grad_norm": 0}),
    "ignored labels": (Tagger, tokens, None, {}),
    "ignored labels, accumulation": (Tagger, tokens, None, {"gradient_accumulation_steps": 2}),
    "terminate_on_nan": (mlp, rows, cross_entropy, {"callbacks": {"terminate_on_nan": None}}),
    "sgd": (mlp, rows, cross_entropy, {"optim": "sgd", "lr_scheduler_type": "cosine"}),
    "label smoothing": (Tagger, tokens, None, {"label_smoothing_factor": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_no_update_after_the_first_waits(tmp_path, case):
    make_model, make_data, loss_fn, arguments = CASES[case]

    watch = watched(tmp_path, make_model(), make_data(), loss_fn, **arguments)

    assert [wait for wait in watch.waits if 1 <= wait[0] < UPDATES] == []
    assert len(watch.operations) == UPDATES + 1
    assert len({watch.operations[update] for update in range(2, UPDATES - 1)}) == 1  # each update has the same kernels


def test_a_log_waits_only_in_its_own_update(tmp_path):
    watch = watched(tmp_path, mlp(), rows(), cross_entropy, logging_steps=4)

    waits = Counter(update for update, _, _ in watch.waits if 1 <= update < UPDATES)
    assert set(waits) == {4}
    assert waits[4] <= 5


def test_a_loss_that_reads_its_value_is_seen(tmp_path):
    def reading(outputs, labels):
        loss = cross_entropy(outputs, labels)
        assert loss.item() != 2.0
        return loss

    watch = watched(tmp_path, mlp(), rows(), reading)

    assert {update for update, _, _ in watch.waits} >= set(range(1, UPDATES))


def test_an_update_has_few_kernels_more_than_one_by_hand(tmp_path):
    model = mlp().to(META)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    watch = Watch()
    with watch:
        for watch.update in range(3):
            inputs, labels = torch.randn(8, 64).to(META), torch.arange(8).to(META)
            cross_entropy(model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    ours = watched(tmp_path, mlp(), rows(), cross_entropy).operations[4]

    assert ours <= watch.operations[1] + 8  # the sum of the losses, and whether each is finite


class Copies(TorchDispatchMode):
    """Writes down the copies from the device to the host and the events that are recorded and waited for, in order."""

    def __init__(self, trail):
        super().__init__()
        self.trail = trail

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if str(func) == "aten.mm.default" or str(func) == "aten.addmm.default":
            self.trail.append("model")
        if str(func) == "aten._to_copy.default" and args[0].device == META:
            self.trail.append("copy" if kwargs.get("non_blocking") else "blocking copy")
            return torch.full(args[0].shape, float(self.trail.count("copy")), dtype=args[0].dtype)
        return func(*args, **kwargs)


def test_on_a_gpu_outputs_are_copied_while_the_next_batches_are_computed(tmp_path, monkeypatch):
    """The device is ``meta`` in place of a GPU: what is read before its event has occurred would be garbage there."""
    trail = []

    class Event:
        def synchronize(self):
            trail.append("wait")

    monkeypatch.setattr(fetching, "OVERLAPPING", frozenset({"meta"}))
    monkeypatch.setattr(fetching, "event_on", lambda device: trail.append("event") or Event())
    args = OnMeta(tmp_path, per_device_eval_batch_size=4, disable_tqdm=True)
    trainer = Trainer(nn.Linear(3, 2), args)

    with Copies(trail):
        predictions = trainer.predict(TensorDataset(torch.zeros(18, 3))).predictions

    begun = ["model", "copy", "event"]
    assert trail == [*begun, *begun, *begun, *(["wait", *begun] * 2), "wait", "wait", "wait"]
    assert predictions[:, 0].tolist() == [float(number) for number in range(1, 6) for _ in range(4)][:18]
