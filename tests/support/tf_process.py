"""A run in a process of its own: ``python -c "from support import tf_process; tf_process.main(devices=2, ...)"``.

Prints a JSON object with the losses, the weights, the evaluation, and what else the tests ask for.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any


def main(*, devices: int = 1, folder: str | None = None, precision: str = "", **options: Any) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    print(json.dumps(run(folder or tempfile.mkdtemp(), precision, **options)))


def run(
    folder: str,
    precision: str,
    *,
    kind: str = "mlp",
    examples: int = 37,
    inf_at: int = 0,
    searches: bool = False,
    bad: int = -1,
    guards: bool = False,
    **options: Any,
) -> Any:
    import numpy as np

    from support import tf_models as parts
    from support.arrays import classified
    from trackside import LossGuardCallback, TFTrainer, TFTrainingArguments, TrainerCallback
    from trackside.trainer.tensorflow.precision.amp import INITIAL_SCALE

    skips: list[bool] = []

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, skipped: bool = False, **kwargs: Any) -> None:
            skips.append(bool(skipped))

    class Injects(TFTrainer):
        """Makes the loss of one example infinite at one update."""

        def run_model(self, features: Any, labels: Any, training: bool) -> Any:
            loss, logits = super().run_model(features, labels, training)
            if training and inf_at:
                now = parts.tf.equal(self.optimizer.iterations.value, inf_at)
                again = parts.tf.equal(self._engine.train_step.precision.scale, INITIAL_SCALE)
                loss = loss * parts.tf.where(now & again, np.float32(np.inf), np.float32(1.0))
            return loss, logits

    class SkipsOnItsOwn(TrainerCallback):
        """Skips the second update, on the first process only."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_skip_update |= state.global_step == 1

    train_data = classified(examples)
    if bad >= 0:
        train_data[0][bad] = np.inf
    args = TFTrainingArguments(
        folder,
        logging_steps=1,
        disable_tqdm=True,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        **{"save_strategy": "no", "learning_rate": 0.05, "optim": "sgd", "max_steps": 8, **options},
    )
    trainer = Injects(
        None,
        args,
        train_data,
        classified(13, seed=1),
        compute_metrics=lambda p: {"rows": float(len(p.predictions)), "sum": float(np.abs(p.predictions).sum())},
        callbacks=[Watch()] if precision == "fp16" else [],
        model_init=lambda: counting({"mlp": parts.mlp, "norm": normed}[kind]()),
        loss_fn=parts.LOSS,
    )
    trainer.pop_callback("printer")
    if guards:
        trainer.add_callback(LossGuardCallback)
        if trainer.is_world_process_zero():
            trainer.add_callback(SkipsOnItsOwn)
    trainer.train()
    records = [record for record in trainer.state.log_history if "grad_norm" in record]
    metrics = trainer.evaluate()
    return {
        "loss": [record["loss"] for record in records],
        "grad_norm": [record["grad_norm"] for record in records],
        "learning_rate": [record["learning_rate"] for record in records],
        "weights": parts.weights_of(trainer.model).tolist(),
        "eval": {name: metrics[f"eval_{name}"] for name in ("loss", "rows", "sum", "accuracy", "top")},
        "predictions": trainer.predict(classified(13, seed=1)).predictions.tolist(),
        "traces": dict(trainer.trace_counts),
        "replicas": args.n_replicas,
        "skips": skips,
        "again": trainer.evaluate()["eval_loss"],
        "alone": loss_alone(trainer, {"mlp": parts.mlp, "norm": normed}[kind]()),
        "search": search(trainer) if searches else None,
        "scale": trainer._engine.train_step.precision.state_dict().get("scale"),
    }


def loss_alone(trainer: Any, model: Any) -> float:
    """The loss of a model on one replica, with the weights and the statistics of the trainer's."""
    from support import tf_models as parts
    from support.arrays import classified

    features, labels = classified(13, seed=1)
    model.set_weights(trainer.model.get_weights())
    return float(parts.LOSS(labels, model(features, training=False)))


def search(trainer: Any) -> Any:
    """Two trials, of which the first process proposes the rates, and gives the first up after half of its steps."""
    import optuna

    ended: list[Any] = []
    watched = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no"}
    trainer.on("on_train_end")(lambda trainer, state, **_: ended.append([state.trial_name, state.global_step]))
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-9, 0.05]), **watched},
        lambda metrics: metrics["eval_loss"],
        n_trials=2,
        backend="optuna",
        sampler=optuna.samplers.GridSampler({"learning_rate": [1e-9, 0.05]}, seed=0),
        pruner=optuna.pruners.ThresholdPruner(upper=1.7),
    )
    return {"best": best.hyperparameters, "objective": best.objective, "ended": ended}


def counting(model: Any) -> Any:
    """Compile ``model`` with metrics whose variables are made in the scope of the strategy, and outside of it."""
    import keras

    model.compile(metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")])
    return model


def normed() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.1), layers.Dense(3)]
    )
