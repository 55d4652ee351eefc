"""A DataLoader, or a batch sampler, of the user's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.torch_models import classified, mlp, weights_of
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, WeightedRandomSampler

from trackside import Trainer, TrainingArguments


class Seen(Trainer):
    """Keeps the first feature of the examples of each batch."""

    def compute_loss(self, model, inputs):
        if model.training:
            vars(self).setdefault("_seen", []).append(inputs[0][:, 0].tolist())
        return nn.functional.cross_entropy(model(inputs[0]), inputs[1])


def make(tmp_path, train_dataset, cls=Seen, **options):
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "optim": "sgd", **options}
    eval_dataset = options.pop("eval_dataset", None)
    args = TrainingArguments(tmp_path, per_device_train_batch_size=8, disable_tqdm=True, **options)
    return cls(mlp(), args, train_dataset=train_dataset, eval_dataset=eval_dataset)


def shuffled():
    return DataLoader(classified(18), batch_size=4, shuffle=True)


def weighted():
    return DataLoader(classified(18), batch_size=4, sampler=WeightedRandomSampler([1.0, 2.0] * 9, 16))


def batched():
    data = classified(18)
    return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, drop_last=True))


@pytest.mark.parametrize(("loader", "batches"), [(shuffled, 5), (weighted, 4), (batched, 4)])
def test_a_data_loader_is_used_as_it_is_and_resumed_exactly(tmp_path, caplog, loader, batches):
    whole = make(tmp_path, loader(), gradient_accumulation_steps=2)
    whole.train()
    step = 1 + -(-batches // 2)  # in the second epoch

    resumed = make(tmp_path, loader(), gradient_accumulation_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))

    assert [len(batch) for batch in whole._seen[:batches]][:4] == [4] * 4
    assert len(whole._seen) == 2 * batches
    assert whole._seen[:batches] != whole._seen[batches:]
    assert resumed._seen == whole._seen[batches + 2 :]
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert caplog.text.count("a DataLoader is used as it is, with") == 2  # once by each trainer


def test_data_loaders_of_evaluation_and_prediction_show_each_example_once(tmp_path):
    plain = make(tmp_path, classified(8), eval_dataset=classified(10, seed=1))
    trainer = make(tmp_path, classified(8), eval_dataset={"a": DataLoader(classified(10, seed=1), batch_size=3)})

    assert trainer.evaluate()["eval_a_loss"] == pytest.approx(plain.evaluate()["eval_loss"])
    predicted = trainer.predict(DataLoader(classified(10, seed=1), batch_size=3))
    np.testing.assert_allclose(predicted.predictions, plain.predict(classified(10, seed=1)).predictions, rtol=1e-5)


def test_a_batch_sampler_in_an_override_is_resumed_exactly(tmp_path):
    class Own(Seen):
        def get_train_dataloader(self):
            return batched()

    whole = make(tmp_path, classified(18), Own)
    whole.train()

    resumed = make(tmp_path, classified(18), Own)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))

    assert len(whole._seen) == 8
    assert resumed._seen == whole._seen[6:]
    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
