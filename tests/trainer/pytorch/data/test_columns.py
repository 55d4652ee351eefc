from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, StackDataset, Subset, random_split

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.pytorch.data.collators import DataCollatorWithPadding, default_data_collator
from trackside.trainer.pytorch.data.columns import drop_unused_columns, forward_arguments


class Model(nn.Module):
    def forward(self, x, mask=None, **kwargs):
        return x


class TakesAnything(nn.Module):
    def forward(self, *args, **kwargs):
        return args


def hugging_face(**columns):
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


def test_columns_that_forward_does_not_take_are_dropped_at_collation(caplog):
    dataset = hugging_face(x=[1, 2], extra=[3, 4], label=[0, 1])
    caplog.set_level(logging.INFO, "trackside.data")

    collate = drop_unused_columns(default_data_collator, dataset, Model(), ["labels"])
    batches = [collate([dataset[0]]), collate([dataset[1]])]

    assert [sorted(batch) for batch in batches] == [["labels", "x"]] * 2
    assert dataset.column_names == ["x", "extra", "label"]
    assert [record.getMessage() for record in caplog.records] == [
        "columns that Model.forward does not take are dropped: extra (remove_unused_columns=False keeps them)"
    ]


def test_dropping_all_columns_is_an_error_that_names_them():
    with pytest.raises(TracksideValueError) as caught:
        drop_unused_columns(default_data_collator, hugging_face(xs=[1], other=[2], label=[0]), Model(), ["labels"])

    assert "Model.forward takes none of the dataset's columns xs, other; it takes " in str(caught.value)
    assert "Did you mean 'x'?" in str(caught.value)


def test_columns_that_a_transform_makes_are_seen_at_collation():
    dataset = hugging_face(raw=[1, 2]).with_transform(
        lambda batch: {"x": [[v] for v in batch["raw"]], "n": batch["raw"]}
    )

    collate = drop_unused_columns(default_data_collator, dataset, Model(), ["labels"])

    assert collate([dataset[0], dataset[1]])["x"].tolist() == [[1], [2]]


def test_a_stream_of_unknown_columns_is_checked_at_the_first_batch():
    dataset = pytest.importorskip("datasets").IterableDataset.from_generator(lambda: iter([{"y": 1, "label": 0}]))
    collate = drop_unused_columns(default_data_collator, dataset, Model(), [])

    with pytest.raises(TracksideValueError, match="takes none of the dataset's columns y"):
        collate(list(dataset))


def test_models_without_named_inputs_keep_the_collator():
    assert drop_unused_columns(default_data_collator, hugging_face(y=[1]), TakesAnything(), []) is default_data_collator


def test_the_arguments_of_forward_are_seen_through_wrappers():
    assert forward_arguments(nn.DataParallel(Model())) == (["x", "mask"], True)
    assert forward_arguments(torch.compile(Model(), backend="eager")) == (["x", "mask"], True)


# -- every kind of dataset --------------------------------------------------------------------------------------------

ROWS = [{"x": [float(i), 1.0, 2.0], "labels": [float(i)], "id": i, "text": "t"} for i in range(8)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        outputs = self.layer(x)
        return {"loss": nn.functional.mse_loss(outputs, labels), "logits": outputs}


@dataclasses.dataclass
class Row:
    x: list
    labels: list
    id: int
    text: str


class Rows(Dataset):
    def __init__(self, rows=ROWS):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class RowStream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


def table():
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def generated():
    return pytest.importorskip("datasets").IterableDataset.from_generator(lambda: iter(ROWS))


DATASETS = {
    "table": table,
    "its stream": lambda: table().to_iterable_dataset(),
    "stream of unknown columns": generated,
    "subset": lambda: Subset(table(), range(6)),
    "subset of a subset": lambda: random_split(Subset(table(), range(6)), [4, 2])[0],
    "concatenation": lambda: ConcatDataset([table(), Subset(table(), range(2))]),
    "concatenation with a list": lambda: ConcatDataset([ROWS, table()]),
    "list": lambda: ROWS,
    "torch dataset": Rows,
    "torch stream": RowStream,
    "stack": lambda: StackDataset(x=torch.ones(8, 3), labels=torch.ones(8, 1), id=torch.arange(8)),
    "objects": lambda: Rows([Row(**row) for row in ROWS]),
}


def train(dataset, tmp_path, cls=Trainer, *, model=None, collator=None, **options):
    args = TrainingArguments(tmp_path, max_steps=2, disable_tqdm=True, save_strategy="no", **options)
    trainer = cls(model or Net(), args, data_collator=collator, train_dataset=dataset, eval_dataset=dataset)
    trainer.train()
    trainer.evaluate()
    return trainer


@pytest.mark.parametrize(
    ("kind", "workers"), [*((kind, 0) for kind in DATASETS), ("list", 1), ("stream of unknown columns", 1)]
)
def test_unused_columns_of_every_kind_of_dataset_are_dropped(tmp_path, kind, workers):
    trainer = train(DATASETS[kind](), tmp_path, dataloader_num_workers=workers)

    assert trainer.state.global_step == 2


@pytest.mark.parametrize("kind", DATASETS)
def test_remove_unused_columns_off_leaves_them_to_the_model(tmp_path, kind):
    with pytest.raises(TracksideTypeError, match=r"Net.forward\(x, labels\) was given .*id"):
        train(DATASETS[kind](), tmp_path, remove_unused_columns=False)


@pytest.mark.parametrize("kind", ["list", "subset", "stream of unknown columns"])
def test_what_is_dropped_is_told_once(tmp_path, caplog, kind):
    caplog.set_level(logging.INFO, "trackside.data")

    train(DATASETS[kind](), tmp_path, num_train_epochs=2, per_device_train_batch_size=2)

    told = [record.getMessage() for record in caplog.records if "are dropped" in record.getMessage()]
    assert len(told) == 1
    assert "Net.forward does not take are dropped: id, text" in told[0]


class Renamed(nn.Module):
    def forward(self, inputs, labels=None):
        raise AssertionError("not reached")


@pytest.mark.parametrize("kind", DATASETS)
def test_an_error_names_the_columns_where_only_labels_would_be_left(tmp_path, kind):
    model = Renamed()
    model.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(TracksideValueError, match=r"Renamed.forward takes none of the dataset's columns x, id"):
        train(DATASETS[kind](), tmp_path, model=model)


def stacked(rows):
    return {"x": torch.tensor([row["x"] for row in rows]) + rows[0]["id"] * 0, "labels": torch.ones(len(rows), 1)}


def test_a_collator_of_the_user_gets_every_entry_of_a_dict(tmp_path):
    assert train(ROWS, tmp_path, collator=stacked).state.global_step == 2
    with pytest.raises(KeyError, match="id"):
        train(table(), tmp_path, collator=stacked)  # as with transformers


class Weighted(Trainer):
    def compute_loss(self, model, inputs):
        weight = inputs.pop("id").float()
        return (weight * model(**inputs)["logits"][:, 0]).mean()


def test_a_compute_loss_of_the_user_gets_every_entry_of_a_dict_and_hears_of_dropped_columns(tmp_path, caplog):
    assert train(ROWS, tmp_path, Weighted).state.global_step == 2
    with pytest.raises(KeyError, match="id"):
        train(table(), tmp_path, Weighted)

    assert "are dropped: id, text (remove_unused_columns=False keeps them)" in caplog.text
    assert train(table(), tmp_path, Weighted, remove_unused_columns=False).state.global_step == 2


def test_a_model_that_takes_any_name_gets_every_entry_of_a_dict():
    collate = drop_unused_columns(default_data_collator, [{"y": 1}], Model(), [])

    assert collate is default_data_collator


def test_padding_of_transformers_on_a_list_drops_columns_too():
    theirs = pytest.importorskip("transformers").DataCollatorWithPadding

    for collator in (theirs(None), DataCollatorWithPadding(None)):
        assert drop_unused_columns(collator, ROWS, Net(), ["labels"]) is not collator
