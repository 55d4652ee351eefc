"""Methods and functions of users are called with what they take; those that do not fit are named at construction."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

import trackside
from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

STEPS = {"pytorch": ["model", "inputs"], "tensorflow": ["features", "labels", "nb_instances_in_global_batch"]}


@pytest.fixture(params=installed_frameworks())
def framework(request: Any) -> Any:
    return request.param


def trainer_with(framework: str, folder: Any, methods: dict[str, Any], **options: Any) -> Any:
    """Return a trainer of a subclass with ``methods``."""
    base = {"pytorch": trackside.Trainer, "tensorflow": trackside.TFTrainer}[framework]
    cls = type("Own", (base,), methods)
    plain = tiny_trainer(framework, folder, **options)
    names = ("train_dataset", "eval_dataset", "loss_fn", "compute_metrics")
    return cls(model=plain.model, args=plain.args, **{name: getattr(plain, name) for name in names})


# -- overrides that fit -----------------------------------------------------------------------------------------------


def test_overrides_that_take_fewer_or_require_more_of_what_is_documented_are_called(framework, tmp_path):
    calls: list[Any] = []
    base = {"pytorch": trackside.Trainer, "tensorflow": trackside.TFTrainer}[framework]

    def prediction_loop(self, dataloader, description, prediction_loss_only=None):  # as in transformers 3.5
        calls.append("prediction_loop")
        return base.prediction_loop(self, dataloader, description, prediction_loss_only)

    def create_scheduler(self, num_training_steps, optimizer):
        calls.append(optimizer is self.optimizer)
        return base.create_scheduler(self, num_training_steps, optimizer)

    def log(self, logs):
        calls.append("log")
        base.log(self, logs)

    methods = {"prediction_loop": prediction_loop, "create_scheduler": create_scheduler, "log": log}
    trainer = trainer_with(framework, tmp_path, methods, max_steps=1, logging_steps=1)

    trainer.train()
    trainer.evaluate()

    assert {"prediction_loop", True, "log"} <= set(calls)


def test_the_steps_of_transformers_3_and_5_are_called(tmp_path):
    pytest.importorskip("torch")
    calls: list[Any] = []

    def compute_loss(self, model, inputs, return_outputs, num_items_in_batch):
        calls.append((return_outputs, num_items_in_batch is not None))
        return trackside.Trainer.compute_loss(self, model, inputs, return_outputs)

    def training_step(self, model, inputs, num_items_in_batch):
        calls.append(num_items_in_batch)
        return trackside.Trainer.training_step(self, model, inputs)

    def prediction_step(self, model, inputs, prediction_loss_only):
        calls.append("prediction_step")
        return trackside.Trainer.prediction_step(self, model, inputs, prediction_loss_only)

    def get_optimizer_cls_and_kwargs(args):
        calls.append("optimizer")
        return trackside.Trainer.get_optimizer_cls_and_kwargs(args)

    own = {"compute_loss": compute_loss, "training_step": training_step, "prediction_step": prediction_step}
    own["get_optimizer_cls_and_kwargs"] = staticmethod(get_optimizer_cls_and_kwargs)
    trainer = trainer_with("pytorch", tmp_path, own, max_steps=1)

    trainer.train()
    trainer.evaluate()

    assert {(False, True), (True, True), None, "prediction_step", "optimizer"} <= set(calls)


def test_a_call_model_init_without_a_trial_is_called(framework, tmp_path):
    base = {"pytorch": trackside.Trainer, "tensorflow": trackside.TFTrainer}[framework]
    plain = tiny_trainer(framework, tmp_path, max_steps=1)
    cls = type("Own", (base,), {"call_model_init": lambda self: self.model_init()})

    data = {"train_dataset": plain.train_dataset, "eval_dataset": plain.eval_dataset}
    trainer = cls(args=plain.args, model_init=lambda: plain.model, **data)

    assert trainer.model is plain.model


# -- overrides that do not --------------------------------------------------------------------------------------------

METHODS = {
    "create_scheduler": (lambda self, optimizer, steps, extra: None, "create_scheduler(num_training_steps, optimizer)"),
    "create_optimizer": (lambda self, model: None, "create_optimizer()"),
    "log": (lambda self, logs, step: None, "log(logs)"),
    "evaluate": (lambda self, dataset: None, "evaluate()"),
    "save_model": (lambda self: None, "save_model(output_dir)"),
    "prediction_step": (lambda self, batch: None, "prediction_step({}"),
    "training_step": (lambda self, batch: None, "training_step({}"),
    "compute_loss": (lambda self, batch: None, "compute_loss("),
    "floating_point_ops": (lambda self: 0, "floating_point_ops(inputs)"),
    "prediction_loop": (lambda self, loader: None, "prediction_loop(dataloader, description,"),
}
OF_ONE = {
    "pytorch": {
        "get_train_dataloader": (lambda self, extra: None, "get_train_dataloader()"),
        "get_eval_dataloader": (lambda self: None, "get_eval_dataloader(eval_dataset)"),
        "backward": (lambda self: None, "backward(loss)"),
    },
    "tensorflow": {
        "get_train_tfdataset": (lambda self, extra: None, "get_train_tfdataset()"),
        "get_eval_tfdataset": (lambda self: None, "get_eval_tfdataset(eval_dataset)"),
        "run_model": (lambda self, features, labels: None, "run_model(features, labels, training)"),
    },
}


def test_an_override_that_does_not_fit_is_an_error_of_the_constructor(framework, tmp_path):
    told = {}
    cases = {**METHODS, **OF_ONE[framework]}
    for name, (method, _) in cases.items():
        with pytest.raises(TracksideTypeError) as caught:
            trainer_with(framework, tmp_path, {name: method})
        told[name] = str(caught.value)

    for name, (_, call) in cases.items():
        assert told[name].startswith(f"Own.{name} is called as {call.format(', '.join(STEPS[framework]))}")
        assert "), and takes (" in told[name]
        assert "test_signatures.py:" in told[name]


def test_a_create_optimizer_that_makes_none_is_told(framework, tmp_path):
    trainer = trainer_with(framework, tmp_path, {"create_optimizer": lambda self: None})

    with pytest.raises(TracksideValueError, match=r"create_optimizer\(\) made no optimizer: it returns one, or sets"):
        trainer.train()


def test_a_method_that_is_set_on_the_trainer_is_checked_when_it_is_called(framework, tmp_path):
    trainer = tiny_trainer(framework, tmp_path)
    trainer.prediction_loop = lambda loader: None

    with pytest.raises(TracksideTypeError, match=r"prediction_loop is called as prediction_loop\(dataloader, desc"):
        trainer.evaluate()


# -- functions --------------------------------------------------------------------------------------------------------


class Metric:
    """Passes what it is called with on, as the metrics of torchmetrics and of Keras do."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.update(*args, **kwargs)

    def update(self, preds: Any, target: Any) -> Any:
        return {}


def metric_objects(framework: str) -> list[Any]:
    if framework == "tensorflow":
        return [Metric(), pytest.importorskip("keras").metrics.Accuracy()]
    found = importlib.util.find_spec("torchmetrics")
    return [
        Metric(),
        *(containers_of(importlib.import_module("torchmetrics").classification.MulticlassAccuracy(3)) if found else []),
    ]


def containers_of(metric: Any) -> list[Any]:
    """Return a metric of torchmetrics, and what passes its values on to it."""
    torchmetrics = importlib.import_module("torchmetrics")
    metrics = torchmetrics.MetricCollection({"accuracy": metric})
    return [metric, metrics, torchmetrics.MetricCollection([metrics]), metric + 1, torchmetrics.MinMaxMetric(metric)]


def test_an_object_is_called_as_the_method_that_it_passes_its_values_to(framework, tmp_path):
    plain = tiny_trainer(framework, tmp_path)
    for metric in metric_objects(framework):
        with pytest.raises(
            TracksideTypeError, match=r"takes \(.*pred.*\): missing a .* Give a function of an EvalPred"
        ):
            type(plain)(plain.model, plain.args, eval_dataset=plain.eval_dataset, compute_metrics=metric)


def test_a_loss_of_the_outputs_alone_is_named(framework, tmp_path):
    plain = tiny_trainer(framework, tmp_path)

    with pytest.raises(
        TracksideTypeError, match=r"loss_fn is called as loss_fn\(.*takes \(outputs\): too many positional"
    ):
        type(plain)(plain.model, plain.args, eval_dataset=plain.eval_dataset, loss_fn=lambda outputs: 0.0)


SET_LATER = {
    "pytorch": {
        "compute_metrics": lambda predictions, labels: {},
        "preprocess_logits_for_metrics": lambda logits: logits,
        "data_collator": lambda examples, pad: None,
        "loss_fn": lambda outputs: 0.0,
    },
    "tensorflow": {"compute_metrics": lambda predictions, labels: {}, "loss_fn": lambda outputs: 0.0},
}


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_a_function_that_is_set_on_the_trainer_is_checked_when_it_begins(framework, tmp_path, action):
    trainer = tiny_trainer(framework, tmp_path)
    for name, function in SET_LATER[framework].items():
        before = getattr(trainer, name)
        setattr(trainer, name, function)

        with pytest.raises(TracksideTypeError, match=rf"{name} is called as {name}\("):
            getattr(trainer, action)()
        setattr(trainer, name, before)


def test_functions_of_a_search_that_do_not_fit_are_named(framework, tmp_path):
    pytest.importorskip("optuna")
    plain = tiny_trainer(framework, tmp_path)
    trainer = type(plain)(
        args=plain.args, model_init=lambda: plain.model, train_dataset=plain.train_dataset,
        eval_dataset=plain.eval_dataset,
    )  # fmt: skip
    given = {"hp_space": lambda trial, other: {}, "compute_objective": lambda: 0.0, "hp_name": 3}

    for name, function in given.items():
        with pytest.raises(TracksideTypeError, match=rf"{name} is (called as|a function,) {name}\("):
            trainer.hyperparameter_search(backend="optuna", n_trials=1, **{name: function})


def test_functions_of_pytorch_that_do_not_fit_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    plain = tiny_trainer("pytorch", tmp_path)
    given: list[tuple[str, Any]] = [
        ("preprocess_logits_for_metrics", lambda logits: logits),
        ("preprocess_logits_for_metrics", 3),
        ("data_collator", lambda examples, pad: None),
        ("loss_items_fn", lambda: 3),
        ("compute_loss_func", lambda outputs, labels: None),
        ("loss_fn", torch.nn.CosineEmbeddingLoss()),
    ]

    for name, function in given:
        with pytest.raises(TracksideTypeError, match=rf"{name} is (called as|a function,) {name}\("):
            trackside.Trainer(plain.model, plain.args, eval_dataset=plain.eval_dataset, **{name: function})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda optim: optim.SGD, "is a pair, .class of optimizer, dict of its options., not <class"),
        (lambda optim: (optim.SGD, ["lr"]), "is a pair, .class of optimizer, dict of its options., not .<class"),
        (lambda optim: (optim.SGD, {"momentun": 0.9}), "SGD takes lr, momentum,.* Did you mean 'momentum'"),
        (lambda optim: ("sgd", {}), r"the class in optimizer_cls_and_kwargs is a function, .*, not str"),
    ],
)
def test_a_class_of_optimizer_and_its_options_are_checked(tmp_path, make, message):
    torch = pytest.importorskip("torch")
    plain = tiny_trainer("pytorch", tmp_path)

    with pytest.raises((TracksideTypeError, ArgumentError), match=message):
        trackside.Trainer(plain.model, plain.args, optimizer_cls_and_kwargs=make(torch.optim))


def test_a_schedule_that_is_no_function_of_the_step_is_named(tmp_path):
    pytest.importorskip("tensorflow")
    plain = tiny_trainer("tensorflow", tmp_path)

    with pytest.raises(TracksideTypeError, match=r"the schedule in optimizers is called as .*\(step\), .*: missing"):
        trackside.TFTrainer(plain.model, plain.args, optimizers=(None, lambda step, rate: rate))
