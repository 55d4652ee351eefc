"""Changes of a dataset and a collator between two epochs, for workers that have copies of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from trackside.trainer.pytorch.data.changes import WorkersCopies, contents_of


class Data(Dataset[Any]):
    def __init__(self) -> None:
        self.level, self.share, self.epoch = 0, float("nan"), 0
        self.rows, self.many = [1, 2], list(range(1000))
        self.tensor, self.array, self.options = torch.zeros(3), np.zeros(3), {"p": 0.1}
        self.itself = self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def collator_of(data: Data) -> Any:
    return partial(lambda rows, scale: (rows, data.level, scale), scale=data.options)


CHANGES = {
    "level": lambda data: setattr(data, "level", 1),
    "rows": lambda data: data.rows.__setitem__(0, 3),
    "many": lambda data: data.many.append(1),
    "tensor": lambda data: data.tensor.add_(1),
    "array": lambda data: data.array.__setitem__(0, 1),
    "options.p": lambda data: data.options.update(p=0.2),
    "new": lambda data: setattr(data, "new", 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_inside_of_a_dataset_is_named_once(name: str, caplog: Any) -> None:
    data = Data()
    copies = WorkersCopies(dataset=Subset(data, [0]))

    assert [copies.are_old(), copies.are_old()] == [False, False]
    CHANGES[name](data)
    assert [copies.are_old(), copies.are_old()] == [True, False]
    data.level = 7
    assert copies.are_old()

    assert caplog.text.count("has changed since the workers began") == 1
    assert f"dataset.dataset.{name}" in caplog.text


def test_a_collator_is_looked_into() -> None:
    data = Data()
    copies = WorkersCopies(data_collator=collator_of(data))
    copies.are_old()

    data.options["p"] = 0.5

    assert copies.are_old()


def test_the_epoch_that_a_dataset_is_told_is_not_a_change() -> None:
    data = Data()
    copies = WorkersCopies(dataset=data)
    copies.are_old()

    before = copies.before_epoch()
    data.set_epoch(1)
    copies.note_epoch(before)

    assert not copies.are_old()
    assert len(contents_of(dataset=data)) < 30
