"""A trainer counts and keeps batches of any class, in training and in evaluation."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideTypeError

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
ROWS = [{"x": x, "labels": x.sum(0, keepdim=True)} for x in X]


class Batch:
    def __init__(self, x, labels):
        self.x, self.labels = x, labels


class Attributes(dict):
    __getattr__ = dict.__getitem__


def stacked(rows, kind):
    parts = {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}
    return kind(**parts) if kind is not dict else {"edge_index": torch.zeros(2, 9), **parts}


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 1)


class Own(Trainer):
    seen = ()

    def compute_loss(self, model, inputs, return_outputs=False):
        self.seen = {*self.seen, type(inputs)}
        get = inputs.__getitem__ if isinstance(inputs, dict) else inputs.__getattribute__
        outputs = model(get("x"))
        loss = nn.functional.mse_loss(outputs, get("labels"))
        return (loss, outputs) if return_outputs else loss


class OwnLoader(Own):
    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)

    def get_eval_dataloader(self, eval_dataset=None):
        return DataLoader(self.eval_dataset, batch_size=4, collate_fn=self.data_collator)


def trainer_of(tmp_path, cls, collator, **options):
    options = {"max_grad_norm": 0, "optim": "sgd", "learning_rate": 0.1, **options}
    args = TrainingArguments(
        tmp_path, no_cuda=True, disable_tqdm=True, save_strategy="no", per_device_train_batch_size=4,
        per_device_eval_batch_size=4, logging_steps=1, max_steps=1, gradient_accumulation_steps=3, **options,
    )  # fmt: skip
    return cls(linear(), args, collator, ROWS, ROWS)


@pytest.mark.parametrize("cls", [Own, OwnLoader])
@pytest.mark.parametrize("kind", [Batch, Attributes, dict])
def test_examples_count_alike_in_batches_of_any_class(tmp_path, cls, kind):
    trainer = trainer_of(tmp_path, cls, lambda rows: stacked(rows, kind))
    right = float(nn.functional.mse_loss(linear()(X), X.sum(1, keepdim=True)))

    metrics = trainer.evaluate()
    trainer.train()
    record = next(record for record in trainer.state.log_history if "loss" in record)

    assert (metrics["eval_loss"], record["loss"]) == pytest.approx((right, right), 1e-5)
    assert trainer.seen == {kind}


def test_batch_size_of_is_asked_for_the_batches_of_other_loaders(tmp_path):
    class Counting(OwnLoader):
        def batch_size_of(self, batch):
            return len(batch.x) + 1

    trainer = trainer_of(tmp_path, Counting, lambda rows: stacked(rows, Batch))
    trainer.evaluate()
    Counting.batch_size_of = lambda self, batch: None

    assert trainer.num_examples(trainer.get_eval_dataloader()) == 10
    with pytest.raises(TracksideTypeError, match=r"batch_size_of\(\) returned None"):
        trainer.train()


def without(rows, keep, kind=dict):
    kept = [row for row in rows if keep(row)]
    x = torch.stack([row["x"] for row in kept]) if kept else torch.zeros(0, 3)
    labels = x.sum(1, keepdim=True)
    return (x, labels) if kind is tuple else {"input": x, "labels": labels}


@pytest.mark.parametrize("kind", [dict, tuple])
@pytest.mark.parametrize("places", [(4, 5, 6), (8, 9)], ids=["some of a batch", "a whole batch"])
def test_examples_that_a_collator_leaves_out_count_nowhere(tmp_path, kind, places):
    left_out = [ROWS[place]["x"] for place in places]
    kept = X[[place for place in range(len(X)) if place not in places]]
    args = TrainingArguments(
        tmp_path, no_cuda=True, disable_tqdm=True, save_strategy="no", per_device_train_batch_size=1,
        per_device_eval_batch_size=4, num_train_epochs=1, logging_steps=1, learning_rate=1e-9, optim="sgd",
    )  # fmt: skip
    trainer = Trainer(
        linear(), args, lambda rows: without(rows, lambda row: not any(row["x"] is x for x in left_out), kind),
        ROWS, ROWS, loss_fn=nn.MSELoss(),
    )  # fmt: skip
    right = float(nn.functional.mse_loss(linear()(kept), kept.sum(1, keepdim=True)))

    result = trainer.train()

    assert (trainer.evaluate()["eval_loss"], result.training_loss) == pytest.approx((right, right), 1e-5)
    assert len(trainer.predict(ROWS).predictions) == len(kept)


class Anchored(nn.Linear):
    """A model that has no memory for more than ``most`` examples."""

    def forward(self, x, anchors, labels):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        outputs = super().forward(x)
        return {"loss": nn.functional.mse_loss(outputs, labels) + anchors.mean() * outputs.mean()}


def test_a_part_without_examples_is_not_cut_to_fit_into_memory(tmp_path):
    anchors, weights = torch.arange(10.0), []
    for most in (10, 4):
        model = Anchored(3, 1)
        model.load_state_dict(linear().state_dict())
        model.most = most
        args = TrainingArguments(
            tmp_path, no_cuda=True, disable_tqdm=True, save_strategy="no", per_device_train_batch_size=10, max_steps=1,
            auto_find_batch_size=True, optim="sgd", learning_rate=0.1,
        )  # fmt: skip
        Trainer(model, args, lambda rows: {**stacked(rows, Attributes), "anchors": anchors}, ROWS).train()
        weights.append(model.weight.detach().clone())

    torch.testing.assert_close(*weights)


class EightBit(nn.Linear):
    is_quantized = True

    def to(self, *args, **kwargs):
        raise ValueError("`.to` is not supported for `8-bit` models")


def test_a_model_that_is_placed_already_is_not_moved(tmp_path):
    trainer = trainer_of(tmp_path, Own, lambda rows: stacked(rows, Attributes))
    trainer.model = trainer.model_wrapped = EightBit(3, 1)

    assert trainer.train().global_step == 1
    assert trainer.evaluate()["eval_loss"] > 0
