"""The header of a run, on both trainers."""

from __future__ import annotations

import pytest

from trackside import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

WHERE = {"pytorch": "cpu in float32", "tensorflow": "CPU in float32"}

pytestmark = pytest.mark.parametrize("framework", installed_frameworks())


def first_lines(capsys):
    return capsys.readouterr().out.splitlines()[:4]


@pytest.mark.parametrize("display", [PrinterCallback, ProgressCallback])
def test_a_run_begins_with_four_lines(framework, display, tmp_path, capsys):
    trainer = tiny_trainer(framework, tmp_path, [display(), EarlyStoppingCallback(3)], load_best_model_at_end=True)

    trainer.train()

    model, data, output, callbacks = first_lines(capsys)
    assert model.startswith("model      ")
    assert model.endswith(f" weights, all trained, on {WHERE[framework]}")
    assert data == "data       24 examples in batches of 4: 6 updates an epoch, 12 in all"
    assert output == f"output     {tmp_path}, saves after each epoch, evaluates after each epoch"
    assert callbacks == f"callbacks  early_stopping, {'printer' if display is PrinterCallback else 'progress'}"


def test_frozen_weights_accumulation_and_a_resumed_run_are_told(framework, tmp_path, capsys):
    arguments = {"gradient_accumulation_steps": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 3}
    tiny_trainer(framework, tmp_path, max_steps=3, **arguments).train()
    trainer = tiny_trainer(framework, tmp_path, [PrinterCallback()], **arguments)

    trainer.train(resume_from_checkpoint=True)

    _, data, output, _ = first_lines(capsys)
    assert data == (
        "data       24 examples in batches of 4 x 2 accumulated: 3 updates an epoch, 6 in all, 3 of them done"
    )
    assert output == f"output     {tmp_path}, saves every 3 steps, never evaluates"


def test_weights_that_are_not_trained_are_told(framework, tmp_path, capsys):
    trainer = tiny_trainer(framework, tmp_path, [PrinterCallback()])
    if framework == "pytorch":
        first = next(iter(trainer.model.parameters()))
        first.requires_grad_(False)
        frozen = first.numel()
    else:
        first = trainer.model.layers[0]
        first.trainable = False
        frozen = first.count_params()

    trainer.train()

    line = first_lines(capsys)[0].replace(",", "")
    weights, trained = (int(word) for word in line.split() if word.isdecimal())
    assert weights - trained == frozen


def test_callbacks_may_read_it(framework, tmp_path):
    class Reads(TrainerCallback):
        def on_train_begin(self, args, state, control, *, header, **kwargs):
            self.lines = header.splitlines()

    reads = Reads()
    tiny_trainer(framework, tmp_path, [reads]).train()

    assert len(reads.lines) == 4


def test_mixed_precision_is_told(framework, tmp_path, capsys):
    tiny_trainer(framework, tmp_path, [PrinterCallback()], bf16=True).train()

    computed = {"pytorch": "bf16", "tensorflow": "bfloat16"}[framework]
    assert first_lines(capsys)[0].endswith(f"{WHERE[framework]}, computed in {computed}")


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_batch_that_the_data_makes_itself_has_no_size(framework, accumulation, tmp_path, capsys):
    trainer = tiny_trainer(
        framework, tmp_path, [PrinterCallback()], max_steps=3, gradient_accumulation_steps=accumulation
    )
    own_batches(trainer, framework, size=6)

    trainer.train()

    known = "24 examples" if framework == "pytorch" else "a stream"
    updates = {1: "4 updates", 2: "2 updates"}[accumulation]
    times = " x 2 accumulated" if accumulation == 2 else ""
    assert first_lines(capsys)[1] == f"data       {known}{times}: {updates} an epoch, 3 in all"


def test_a_stream_is_in_batches_of_the_arguments(framework, tmp_path, capsys):
    trainer = tiny_trainer(framework, tmp_path, [PrinterCallback()], max_steps=3, per_device_train_batch_size=3)
    trainer.train_dataset = as_stream(trainer.train_dataset, framework)

    trainer.train()

    assert first_lines(capsys)[1] == "data       a stream in batches of 3: 3 in all"


def own_batches(trainer, framework, size):
    """Have the trainer take batches of its user's, of ``size`` examples."""
    if framework == "pytorch":
        from torch.utils.data import DataLoader

        trainer.train_dataset = DataLoader(trainer.train_dataset, batch_size=size)
    else:
        features, labels = trainer.train_dataset
        batches = as_dataset(features, labels).batch(size)
        trainer.get_train_tfdataset = lambda: batches


def as_stream(data, framework):
    """Return the examples as data without a length."""
    if framework == "pytorch":
        from torch.utils.data import IterableDataset

        class Stream(IterableDataset):
            def __iter__(self):
                return iter(data)

        return Stream()
    return as_dataset(*data).filter(lambda features, label: True)


def as_dataset(features, labels):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((features, labels))
