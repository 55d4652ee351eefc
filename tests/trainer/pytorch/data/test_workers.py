from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from trackside import Trainer, TrainerCallback, TrainingArguments
from trackside.trainer.pytorch._compat import unseen_as_worker
from trackside.trainer.pytorch.data.workers import SeededDataset, fetch, host_state_kept, seed_worker
from trackside.trainer.pytorch.snapshot import random_state


def draw():
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_a_seed_fixes_all_generators_of_the_host():
    with host_state_kept(0):
        seed_worker(2**62 + 5)
        first = draw()
        seed_worker(2**62 + 6)
        second = draw()
        seed_worker(2**62 + 5)

        assert draw() == first
        assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_random_state_is_put_back_also_after_an_exception():
    before = random_state()

    with pytest.raises(ZeroDivisionError), host_state_kept(7):
        draw()[0] / 0

    assert str(random_state()) == str(before)
    assert torch.equal(torch.get_rng_state(), before["torch"])


def test_trainers_on_streams_in_threads_leave_the_generator_of_numpy_alone(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for index in range(64):
                time.sleep(0.0002)
                yield torch.ones(4) * np.random.rand(), torch.tensor(index % 2)

    def train(number):
        args = TrainingArguments(tmp_path / str(number), max_steps=10, save_strategy="no", disable_tqdm=True)
        loss_fn = torch.nn.functional.cross_entropy
        Trainer(torch.nn.Linear(4, 2), args, train_dataset=Stream(), loss_fn=loss_fn).train()

    own = np.random.mtrand.get_bit_generator()
    threads = [threading.Thread(target=train, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert np.random.mtrand.get_bit_generator() is own


def test_a_worker_can_pass_for_none():
    worker = torch.utils.data._utils.worker
    worker._worker_info = "a worker"
    try:
        with unseen_as_worker():
            assert get_worker_info() is None
        assert get_worker_info() == "a worker"
    finally:
        worker._worker_info = None


def test_a_dataset_for_workers_looks_like_the_one_behind_it():
    class Named(list):
        column_names = ["x"]

    wrapped = SeededDataset(Named([3, 4, 5]))

    assert (len(wrapped), wrapped[1], wrapped.column_names) == (3, 4, ["x"])
    assert pickle.loads(pickle.dumps(SeededDataset([1, 2])))[1] == 2
    assert fetch([3, 4, 5], [2, 0]) == [5, 3]


SCRIPT = """
import os, signal, sys, time
from types import SimpleNamespace
import torch
from trackside.trainer.pytorch.data.factory import make_loader

class Slow:
    def __len__(self): return 8
    def __getitem__(self, index):
        time.sleep(float(sys.argv[1]))
        return {"pid": os.getpid()}

signals = []
signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
args = SimpleNamespace(dataloader_num_workers=2, dataloader_pin_memory=False, dataloader_persistent_workers=False,
                       dataloader_prefetch_factor=None,
                       dataloader_multiprocessing_context=None)
loader = make_loader(Slow(), batch_size=1, collate_fn=list, args=args, seed=0, shuffle=False, drop_last=False)
batches = iter(loader)
if sys.argv[2] == "finish":
    next(batches), next(batches)  # one of each worker, so that both have begun
    print("ready", flush=True)
    count = 2 + sum(1 for _ in batches)
    print("batches", count, "signals", len(signals), flush=True)
else:
    print("ready", flush=True)
"""


def run_script(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="signals as on Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(number):
    process = run_script("0.2", "finish")

    os.killpg(process.pid, number)

    assert process.communicate(timeout=120)[0] == "batches 8 signals 1\n"
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="signals as on Linux")
def test_a_worker_that_hangs_does_not_keep_the_training_process_from_ending():
    start = time.monotonic()
    process = run_script("1000", "leave")

    process.communicate(timeout=120)

    assert time.monotonic() - start < 120


class Leveled(torch.utils.data.Dataset):
    """Examples that hold the level at which a callback has set the dataset."""

    level = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(self.level)])


@pytest.mark.parametrize("persistent", [False, True])
def test_the_workers_of_an_epoch_see_what_its_first_event_changed(tmp_path, caplog, persistent):
    seen = []

    class Raise(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            data.level += 1

    class Loss(Trainer):
        def compute_loss(self, model, inputs):
            seen.append(inputs.max().item())
            return model(inputs).mean()

    data = Leveled()
    options = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent, "save_strategy": "no"}
    args = TrainingArguments(tmp_path, num_train_epochs=3, disable_tqdm=True, **options)

    Loss(torch.nn.Linear(1, 1), args, train_dataset=data, callbacks=[Raise]).train()

    assert seen == [1, 2, 3]
    assert caplog.text.count("dataset.level has changed since the workers began") == persistent


@pytest.mark.parametrize("workers", [0, 2])
def test_another_default_device_leaves_indices_and_workers_on_the_host(tmp_path, workers):
    args = TrainingArguments(tmp_path, dataloader_num_workers=workers, per_device_train_batch_size=4)
    with torch.device("meta"):  # as torch.set_default_device does
        trainer = Trainer(torch.nn.Linear(1, 1, device="cpu"), args, train_dataset=Leveled())
        batches = list(trainer.get_train_dataloader())

    assert [batch.device.type for batch in batches] == ["cpu" if workers else "meta"] * 2
