from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import Schedule, drawn_events
from pytorch_parts import DictDataset, accuracy, classified, mlp, weights_of
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from trackside import Trainer, TrainerCallback, TrainingArguments, events
from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError, UnknownMetricError

Make = Callable[..., Trainer]


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_sends_the_events_that_the_docstring_draws(make_trainer: Make, accumulation: int) -> None:
    batches = 5
    windows = [accumulation] * (batches // accumulation) + [batches % accumulation] * (batches % accumulation > 0)
    total = 2 * len(windows)
    seen: list[str] = []
    connected = [(signal, _noting(seen, name)) for name, signal in events.EVENTS.items()]
    for signal, listener in connected:
        signal.connect(listener)

    trainer = make_trainer(
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
        logging_steps=2,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="epoch",
        eval_dataset=classified(10),
        eval_on_start=True,
    )
    trainer.train()

    for signal, listener in connected:
        signal.disconnect(listener)
    assert seen == drawn_events(
        Schedule(
            windows=windows,
            epochs=2,
            evaluation_batches=2,
            logs_at=set(range(2, total + 1, 2)),
            saves_at={*range(3, total + 1, 3), total},
            evaluates_at_epoch_end=True,
            evaluates_on_start=True,
        )
    )


def _noting(seen: list[str], name: str) -> Callable[..., None]:
    return lambda trainer, **payload: seen.append(name)


def test_on_train_end_and_on_exception_come_when_training_raises(make_trainer: Make) -> None:
    seen: list[str] = []

    class Fails(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("boom")

        def on_exception(self, args: Any, state: Any, control: Any, exception: Any = None, **kwargs: Any) -> None:
            seen.append(f"on_exception {exception}")

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append("on_train_end")

    with pytest.raises(RuntimeError, match="boom") as caught:
        make_trainer(callbacks=[Fails()]).train()

    assert seen == ["on_exception boom", "on_train_end"]
    assert "raised by the callback 'fails'" in caught.value.__notes__[0]


# -- callbacks steer and watch ----------------------------------------------------------------------------------------


class At(TrainerCallback):
    """Sets a flag at a step."""

    def __init__(self, step: int, flag: str) -> None:
        self.step, self.flag = step, flag

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            setattr(control, self.flag, True)


def test_should_training_stop_ends_the_run_with_its_reason(make_trainer: Make) -> None:
    trainer = make_trainer(callbacks=[At(3, "should_training_stop")])

    assert trainer.train().global_step == 3
    assert trainer.state.stop_reason == "at asked for it at on_step_end"


def test_should_epoch_stop_goes_on_with_the_next_epoch(make_trainer: Make) -> None:
    trainer = make_trainer(callbacks=[At(2, "should_epoch_stop")], num_train_epochs=2, max_steps=4)
    epochs: list[float] = []
    trainer.on("on_epoch_begin")(lambda trainer, state, **rest: epochs.append(state.epoch))

    assert trainer.train().global_step == 4
    assert epochs == [0.0, 1.0]


@pytest.mark.parametrize(
    ("flag", "event"), [("should_log", "on_log"), ("should_evaluate", "on_evaluate"), ("should_save", "on_save")]
)
def test_a_flag_is_acted_on_once_and_cleared(make_trainer: Make, flag: str, event: str) -> None:
    trainer = make_trainer(callbacks=[At(2, flag)], eval_dataset=classified(8), logging_strategy="no")
    steps: list[int] = []
    trainer.on(event)(lambda trainer, state, **rest: steps.append(state.global_step))

    trainer.train()

    assert steps[0] == 2
    assert steps.count(2) == 1
    assert not getattr(trainer.control, flag)


def test_a_tracker_that_always_raises_changes_no_weight_and_is_reported_once(make_trainer: Make) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        torch.rand(3)  # even one that draws random numbers before training
        raise RuntimeError("the tracker is down")

    broken = type("BrokenTracker", (TrainerCallback,), {"role": "observer", **dict.fromkeys(events.EVENTS, fail)})
    reported: list[str] = []

    def run(callbacks: list[Any]) -> tuple[Tensor, Trainer]:
        trainer = make_trainer(model=mlp(dropout=0.2), callbacks=callbacks, logging_steps=1)
        trainer.on("on_callback_error")(lambda trainer, callback, **rest: reported.append(callback))
        trainer.train()
        return weights_of(trainer.model), trainer

    plain, _ = run([])
    watched, trainer = run([broken()])

    assert torch.equal(plain, watched)
    assert reported == ["broken_tracker"]
    assert trainer.callback_report["broken_tracker"].detached_after == 3


# -- records ----------------------------------------------------------------------------------------------------------


def test_log_records_have_the_agreed_keys_and_loss_is_the_mean_since_the_last(make_trainer: Make) -> None:
    def run(steps: int) -> list[dict[str, float]]:
        trainer = make_trainer(
            logging_steps=steps, num_train_epochs=2, eval_dataset=classified(8), eval_strategy="epoch"
        )
        trainer.train()
        return trainer.state.log_history

    each, third = run(1), run(3)

    losses = [record["loss"] for record in each if "loss" in record]
    means = [record["loss"] for record in third if "loss" in record]
    assert means == pytest.approx([np.mean(losses[start : start + 3]) for start in range(0, 9, 3)])
    assert list(each[0]) == ["loss", "grad_norm", "learning_rate", "epoch", "step"]
    assert set(each[5]) == {
        "eval_loss",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
        "epoch",
        "step",
    }
    assert set(each[-1]) == {
        *("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"),
        *("epoch", "step"),
    }
    assert each[-1]["train_loss"] == pytest.approx(np.mean(losses))
    assert third[-1]["train_loss"] == pytest.approx(np.mean(losses))


def test_a_loss_that_is_not_finite_is_shown_as_it_is_unless_filtered(make_trainer: Make) -> None:
    class Sometimes(Trainer):
        def compute_loss(self, model: Any, inputs: Any) -> Any:
            loss = super().compute_loss(model, inputs)
            return loss * float("nan") if self.state.global_step == 2 else loss

    shown, filtered = [
        make_trainer(Sometimes, logging_steps=1, logging_nan_inf_filter=keep, max_grad_norm=0.0)
        for keep in (False, True)
    ]
    shown.train()
    filtered.train()

    assert np.isnan(shown.state.log_history[2]["loss"])
    assert np.isfinite(filtered.state.log_history[2]["loss"])


# -- models and data --------------------------------------------------------------------------------------------------


def test_the_subclass_of_the_reference_documentation_works_as_printed(make_trainer: Make) -> None:
    calls: list[bool] = []

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> tuple[Tensor]:
            calls.append(self.training)
            return (self.inner(x),)

    def my_custom_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(logits, labels)

    class MyTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            logits = outputs[0]
            return my_custom_loss(logits, labels)

    features, labels = classified(20).tensors
    dataset = DictDataset(x=features, labels=labels)
    trainer = make_trainer(
        MyTrainer, model=Named(), train_dataset=dataset, eval_dataset=dataset, loss_fn=None, compute_metrics=accuracy
    )
    trainer.train()
    calls.clear()

    metrics = trainer.evaluate()

    assert calls == [False] * 3, "one forward pass for each batch"
    with torch.no_grad():
        expected = my_custom_loss(trainer.model.eval()(features)[0], labels)
    assert metrics["eval_loss"] == pytest.approx(float(expected), abs=1e-6)
    assert 0.0 <= metrics["eval_accuracy"] <= 1.0


def test_a_model_without_a_loss_gets_a_clear_error(make_trainer: Make) -> None:
    with pytest.raises(TracksideValueError, match=r"returned no loss.*loss_fn"):
        make_trainer(loss_fn=None, model=_OnlyLogits(), train_dataset=DictDataset(x=torch.randn(8, 6))).train()


class _OnlyLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x)}


def test_a_trainer_without_model_says_so() -> None:
    with pytest.raises(TracksideTypeError, match="Trainer needs model"):
        Trainer(args=TrainingArguments())


def test_evaluation_without_a_dataset_fails_when_the_trainer_is_built(make_trainer: Make) -> None:
    with pytest.raises(ArgumentError, match="eval_strategy='epoch' is not allowed: 'no', since"):
        make_trainer(eval_strategy="epoch")


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A dataset without a length."""

    def __init__(self, examples: int) -> None:
        self.data = classified(examples)

    def __iter__(self) -> Any:
        return iter(self.data[index] for index in range(len(self.data)))


def test_a_dataset_without_length_is_repeated_until_max_steps(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=Stream(20), max_steps=7, per_device_train_batch_size=4)

    assert trainer.train().global_step == 7


def test_a_dataset_without_length_needs_max_steps(make_trainer: Make) -> None:
    with pytest.raises(ArgumentError, match="max_steps=-1"):
        make_trainer(train_dataset=Stream(20)).train()


def test_a_model_with_tied_weights_and_a_transformers_model_train_save_and_load(
    make_trainer: Make, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config)
    ids = torch.randint(0, 30, (20, 7))
    dataset = DictDataset(input_ids=ids, labels=ids)
    trainer = make_trainer(model=model, train_dataset=dataset, eval_dataset=dataset, loss_fn=None, num_train_epochs=1)

    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    output = trainer.predict(dataset)

    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        expected = loaded(input_ids=ids, labels=ids)
    np.testing.assert_allclose(output.predictions, expected.logits.numpy(), atol=1e-5)
    assert output.metrics["test_loss"] == pytest.approx(float(expected.loss), abs=1e-5)


def test_model_init_gives_the_same_run_each_time(make_trainer: Make) -> None:
    trainer = make_trainer(model_init=lambda: nn.Sequential(nn.Linear(6, 3)))

    trainer.train()
    first = weights_of(trainer.model)
    trainer.train()

    assert torch.equal(first, weights_of(trainer.model))


# -- evaluation and prediction ----------------------------------------------------------------------------------------


def test_a_dict_of_evaluation_sets_gives_metrics_by_name_and_one_on_evaluate(make_trainer: Make) -> None:
    trainer = make_trainer(eval_dataset={"a": classified(9), "b": classified(5, seed=1)}, compute_metrics=accuracy)
    heard: list[dict[str, float]] = []
    trainer.on("on_evaluate")(lambda trainer, metrics, **rest: heard.append(metrics))

    metrics = trainer.evaluate()

    assert {"eval_a_loss", "eval_b_loss", "eval_a_accuracy", "eval_b_accuracy"} <= set(metrics)
    assert heard == [metrics]


def test_ragged_predictions_are_padded_with_minus_100(make_trainer: Make) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"loss": self.scale * 0.0, "logits": x * self.scale, "more": (x[:, :1],)}

    rows = [torch.arange(1.0, 2 + index % 4) for index in range(10)]

    def collate(features: list[Any]) -> dict[str, Tensor]:
        return {"x": nn.utils.rnn.pad_sequence([f["x"] for f in features], batch_first=True)}

    dataset = [{"x": row} for row in rows]
    trainer = make_trainer(model=Wide(), loss_fn=None, data_collator=collate, per_device_eval_batch_size=3)

    logits, more = trainer.predict(dataset).predictions

    assert logits.shape == (10, 4)
    assert logits[9].tolist() == [1.0, 2.0, -100.0, -100.0]
    assert more[0].shape == (10, 1)


@pytest.mark.parametrize("accumulation", [None, 1, 3])
def test_predictions_do_not_depend_on_how_often_they_move_to_the_host(
    make_trainer: Make, accumulation: int | None
) -> None:
    dataset = classified(37)
    trainer = make_trainer(eval_accumulation_steps=accumulation, compute_metrics=accuracy)

    output = trainer.predict(dataset)

    with torch.no_grad():
        expected = trainer.model.eval()(dataset.tensors[0]).numpy()
    np.testing.assert_allclose(output.predictions, expected, rtol=1e-6)
    np.testing.assert_array_equal(output.label_ids, dataset.tensors[1].numpy())
    assert output.metrics["test_accuracy"] == accuracy(output)["accuracy"]


def test_batch_eval_metrics_are_asked_for_batch_by_batch(make_trainer: Make) -> None:
    seen: list[tuple[int, bool]] = []

    def metrics(prediction: Any, compute_result: bool = False) -> dict[str, float]:
        seen.append((len(prediction.label_ids), compute_result))
        return {"n": sum(size for size, _ in seen)} if compute_result else {}

    trainer = make_trainer(batch_eval_metrics=True, compute_metrics=metrics, per_device_eval_batch_size=8)

    result = trainer.evaluate(classified(20))

    assert seen == [(8, False), (8, False), (4, True)]
    assert result["eval_n"] == 20


def test_the_model_trains_on_after_an_evaluation_in_its_midst(make_trainer: Make) -> None:
    modes: list[bool] = []
    trainer = make_trainer(eval_dataset=classified(8), eval_strategy="steps", eval_steps=2)
    trainer.on("on_step_begin")(lambda trainer, **rest: modes.append(trainer.model.training))

    trainer.train()

    assert modes == [True] * 15


# -- the best model ---------------------------------------------------------------------------------------------------


def test_an_unknown_metric_fails_before_the_first_step(make_trainer: Make) -> None:
    trainer = make_trainer(
        eval_dataset=classified(8),
        compute_metrics=accuracy,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_acc",
    )

    with pytest.raises(UnknownMetricError, match=r"eval_acc.*is not among.*Did you mean 'eval_accuracy'"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_the_best_model_has_its_own_checkpoint_and_comes_back_at_the_end(make_trainer: Make) -> None:
    scores = iter([0.0, 0.1, 0.5, 0.9, 0.2, 0.3, 0.4])  # the first is for the trial before training
    seen: dict[int, Tensor] = {}
    trainer = make_trainer(
        eval_dataset=classified(8),
        compute_metrics=lambda prediction: {"score": next(scores)},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=100,
        save_total_limit=1,
        max_steps=12,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer.on("on_step_end")(lambda t, state, **rest: seen.update({state.global_step: weights_of(t.model)}))

    trainer.train()

    assert trainer.state.best_global_step == 6
    assert trainer.state.best_metric == 0.9
    assert torch.equal(weights_of(trainer.model), seen[6])
    left = sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))
    assert left == ["checkpoint-12", "checkpoint-6"]


# -- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_on_the_cpu_trains_close_to_full_precision(make_trainer: Make, precision: str) -> None:
    full = make_trainer(train_dataset=classified(200), num_train_epochs=2, learning_rate=1e-2)
    mixed = make_trainer(train_dataset=classified(200), num_train_epochs=2, learning_rate=1e-2, **{precision: True})

    expected, loss = full.train().training_loss, mixed.train().training_loss

    assert loss == pytest.approx(expected, rel=0.05)
    assert loss != expected
    assert mixed.model[0].weight.dtype == torch.float32


def test_a_step_that_the_loss_scaler_holds_back_is_reported_and_the_schedule_waits(make_trainer: Make) -> None:
    class Overflows(Trainer):
        def compute_loss(self, model: Any, inputs: Any) -> Any:
            loss = super().compute_loss(model, inputs)
            return loss * float("inf") if self.state.global_step == 1 else loss

    trainer = make_trainer(Overflows, fp16=True, max_steps=4, learning_rate=1e-3, logging_steps=1)
    held: list[bool] = []
    weights: list[Tensor] = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, skipped: bool = False, **kwargs: Any) -> None:
            held.append(skipped)
            weights.append(weights_of(kwargs["model"]))

    trainer.add_callback(Watch())
    trainer.train()

    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert held == [False, True, False, False]
    assert torch.equal(weights[0], weights[1])
    assert rates == pytest.approx([0.75e-3, 0.75e-3, 0.5e-3, 0.25e-3])


def test_full_evaluation_in_bf16_gives_the_weights_back_to_the_bit(make_trainer: Make) -> None:
    trainer = make_trainer(bf16_full_eval=True, eval_dataset=classified(8))
    before = weights_of(trainer.model)

    trainer.evaluate()

    assert torch.equal(before, weights_of(trainer.model))


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 3])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(make_trainer: Make, accumulation: int) -> None:
    largest = 3

    class Small(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.inner, self.limit = mlp(dtype=torch.float64), limit

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory (pretended by a test)")
            return self.inner(x)

    def run(limit: int) -> Trainer:
        trainer = make_trainer(
            model=Small(limit),
            train_dataset=classified(29, dtype=torch.float64),
            auto_find_batch_size=True,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
        )
        trainer.train()
        return trainer

    roomy, tight = run(100), run(largest)

    torch.testing.assert_close(weights_of(tight.model), weights_of(roomy.model), rtol=0, atol=1e-10)
    for one, other in zip(roomy.state.log_history[:-1], tight.state.log_history[:-1], strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_gradient_checkpointing_says_when_the_model_cannot(make_trainer: Make) -> None:
    with pytest.raises(TracksideValueError, match="Sequential has none"):
        make_trainer(gradient_checkpointing=True).train()


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights_and_keeps_its_names(make_trainer: Make) -> None:
    plain, compiled = make_trainer(), make_trainer(torch_compile=True)
    plain.train()
    compiled.train()

    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    torch.testing.assert_close(weights_of(compiled.model), weights_of(plain.model))


# -- odds and ends ----------------------------------------------------------------------------------------------------


def test_label_smoothing_is_that_of_torch(make_trainer: Make) -> None:
    smooth = make_trainer(label_smoothing_factor=0.1, loss_fn=None)
    by_torch = make_trainer(loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1))

    smooth.train()
    by_torch.train()

    assert torch.equal(weights_of(smooth.model), weights_of(by_torch.model))


def test_an_optimizer_of_ones_own_is_used(make_trainer: Make) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = make_trainer(model=model, optimizers=(optimizer, None))

    trainer.train()

    assert trainer.optimizer is optimizer


def test_train_names_an_unknown_argument(make_trainer: Make) -> None:
    with pytest.raises(TracksideTypeError, match="Did you mean 'resume_from_checkpoint'"):
        make_trainer().train(resume_from_checkpont=True)


def test_inputs_that_have_no_labels_are_predicted(make_trainer: Make) -> None:
    output = make_trainer().predict(TensorDataset(torch.randn(5, 6)))

    assert output.predictions.shape == (5, 3)
    assert output.label_ids is None
    assert "test_loss" not in output.metrics


def test_memory_metrics_are_given_on_request(make_trainer: Make) -> None:
    class Hungry(nn.Module):
        """Takes 80 MB for a moment and keeps 40 MB."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.kept = mlp(), None

        def forward(self, x: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = np.ones(5_000_000)
                passing = np.ones(10_000_000)
                time.sleep(0.1)
                del passing
            return self.inner(x)

    trainer = make_trainer(model=Hungry(), skip_memory_metrics=False, eval_dataset=classified(8))

    metrics = trainer.train().metrics
    evaluated = trainer.evaluate()

    assert metrics["train_mem_cpu_alloc_delta"] > 30e6
    assert metrics["train_mem_cpu_peaked_delta"] > 60e6
    assert "eval_mem_cpu_alloc_delta" in evaluated
