"""A subclass with the data loader of transformers' source, which is prepared, trains as without it."""

from __future__ import annotations

from typing import Any

from support.torch_models import mlp
from torch.utils.data import DataLoader, SequentialSampler

from trackside import Trainer


class Prepares(Trainer):
    def get_train_dataloader(self) -> Any:
        options = {"batch_size": self._train_batch_size, "sampler": SequentialSampler(self.train_dataset)}
        return self.accelerator.prepare(DataLoader(self.train_dataset, collate_fn=self.data_collator, **options))


def test_a_loader_that_is_prepared_gives_the_batches_of_the_sampler(make_trainer):
    options = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
    prepared = make_trainer(Prepares, model=mlp(), **options)
    plain = make_trainer(model=mlp(), train_sampling_strategy="sequential", **options)

    assert prepared.train().training_loss == plain.train().training_loss


def test_a_teacher_is_prepared_without_training(make_trainer):
    accelerator, teacher = make_trainer().accelerator, mlp()

    first, second = accelerator.prepare(teacher, loader := DataLoader([1]))

    assert (first, second) == (teacher, loader)
    assert not accelerator.prepare_model(teacher, evaluation_mode=True).training
