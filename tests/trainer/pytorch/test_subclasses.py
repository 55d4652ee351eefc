"""Subclasses of the Trainer as guides and blogs write them, each method overridden in the usual way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified, mlp, weights_of
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from trackside import Trainer


def test_a_training_step_written_out_gives_what_the_trainers_own_gives(make_trainer):
    class Own(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            model.train()
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            self.backward(loss)
            return loss.detach()

    class Counting(Trainer):
        count = 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            self.count += 1
            return super().training_step(model, inputs, num_items_in_batch)

    plain, own, counting = (
        make_trainer(model=mlp()),
        make_trainer(Own, model=mlp()),
        make_trainer(Counting, model=mlp()),
    )

    losses = [trainer.train().training_loss for trainer in (plain, own, counting)]

    assert losses[0] == losses[1] == losses[2]
    assert counting.count == counting.state.global_step


def test_an_override_that_is_never_called_brings_a_warning_and_a_name_that_is(make_trainer):
    class Elsewhere(Trainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return WeightedRandomSampler(torch.ones(20), 20)

    with pytest.warns(UserWarning, match=r"_get_train_sampler is never called: override get_train_dataloader"):
        trainer = make_trainer(Elsewhere)

    with pytest.raises(AttributeError, match=r"'push_to_hub': upload the folder"):
        trainer.push_to_hub()


def test_a_method_of_callbacks_in_a_trainer_brings_a_warning(make_trainer):
    class Listens(Trainer):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None: ...

    with pytest.warns(UserWarning, match=r"Listens.on_step_end is a method of callbacks; a trainer calls none"):
        make_trainer(Listens)


def test_a_training_step_without_a_loss_is_an_error_and_without_a_backward_pass_told(make_trainer, caplog):
    class Forgets(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return self.compute_loss(model, inputs) if self.args.seed else super().training_step(model, inputs) and None

    make_trainer(Forgets, max_steps=2).train()

    assert caplog.text.count("training_step() of Forgets has run no backward pass") == 1
    with pytest.raises(TypeError, match=r"Forgets.training_step\(\) returned NoneType; it returns the mean loss"):
        make_trainer(Forgets, seed=0).train()


def test_a_loader_of_ones_own_with_a_weighted_sampler_is_resumed_to_the_bit(make_trainer):
    class Weighted(Trainer):
        def get_train_dataloader(self) -> Any:
            sampler = WeightedRandomSampler(torch.arange(1.0, 41.0), 40)
            return DataLoader(self.train_dataset, batch_size=8, sampler=sampler, collate_fn=self.data_collator)

    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8, "learning_rate": 0.1}
    whole, resumed = make_trainer(Weighted, model=mlp(), **options), make_trainer(Weighted, model=mlp(), **options)

    whole.train()
    resumed.train(f"{whole.args.output_dir}/checkpoint-3")

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))


def test_a_loader_that_is_a_generator_is_refused(make_trainer):
    class Generator(Trainer):
        def get_train_dataloader(self) -> Any:
            yield classified(8).tensors

    with pytest.raises(TypeError, match=r"get_train_dataloader\(\) returned an iterator"):
        make_trainer(Generator).train()


def test_a_loader_that_was_not_returned_is_missed(make_trainer):
    class Forgets(Trainer):
        def get_train_dataloader(self) -> Any:
            super().get_train_dataloader()

    with pytest.raises(TypeError, match=r"get_train_dataloader\(\) returned None; return a DataLoader"):
        make_trainer(Forgets).train()


def test_optimizer_and_schedule_that_are_only_returned_are_taken(make_trainer):
    class Returning(Trainer):
        def create_optimizer(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=1.0)

        def create_scheduler(self, num_training_steps: int) -> Any:
            return torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.5)

    trainer = make_trainer(Returning, max_steps=2, logging_steps=1)

    trainer.train()

    assert [record["learning_rate"] for record in trainer.state.log_history[:2]] == [1.0, 0.5]
