"""Draws of a model: new ones in every micro-batch, the same in a run with the same seed, the same after a resume."""

from __future__ import annotations

import json
import logging
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, run_alone, weights_of

from trackside import TFTrainer
from trackside.trainer.tensorflow.distributed.strategy import SingleProcess
from trackside.trainer.tensorflow.draws.state import DRAWS, Draws

STRATEGY = SingleProcess(tf.distribute.get_strategy())
SPEC = tf.TensorSpec((None, 6))


@tf.function
def nested(value):
    return value + tf.random.normal(tf.shape(value))


def in_loop(value):
    def body(number, rows):
        return number + 1, rows + tf.random.normal(tf.shape(rows))

    return tf.while_loop(lambda number, rows: number < 3, body, (0, value))[1]


def in_branch(value):
    draw = tf.random.uniform(()) > 0.5
    return tf.cond(draw, lambda: value + tf.random.normal(tf.shape(value)), lambda: value - tf.random.normal((6,)))


KINDS = {
    "plain": lambda value: value + tf.random.normal(tf.shape(value)),
    "a tf.function, called twice": lambda value: nested(nested(value)) + tf.random.uniform(tf.shape(value)),
    "a loop": in_loop,
    "a branch": in_branch,
    "map_fn": lambda value: tf.map_fn(lambda row: row + tf.random.normal((6,)), value),
    "vectorized_map": lambda value: tf.vectorized_map(lambda row: row + tf.random.normal((6,)), value),
    "seeds": lambda value: value + tf.random.normal((6,), seed=3) + tf.random.normal((6,), seed=4),
}


class Drawing(keras.layers.Layer):
    def __init__(self, kinds, always=False):
        super().__init__()
        self.kinds, self.always = kinds, always

    def call(self, value, training=False):
        for kind in self.kinds if training or self.always else ():
            value = KINDS[kind](value)
        return value


def model(*kinds, always=False):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), Drawing(kinds or [*KINDS], always), keras.layers.Dense(3)])


def micro_batches(function, count=3, *, draws=None):
    draws = draws or Draws()

    def step(value):
        with draws.micro_batch():
            return function(value)

    with draws.replacing(STRATEGY):
        compiled = tf.function(step, autograph=False, input_signature=[SPEC]).get_concrete_function()
    return draws, lambda: [compiled(tf.zeros((4, 6))).numpy() for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_new_in_every_micro_batch_and_a_function_of_the_state(kind):
    draws, run = micro_batches(KINDS[kind], draws=DRAWS)
    draws.seed(1)
    first = run()
    state = draws.value()
    second = run()

    draws.restore(json.loads(json.dumps(state)))
    again = run()
    draws.seed(1)

    assert len({value.tobytes() for value in first + second}) == 6
    assert np.array_equal(again, second)
    assert np.array_equal(run(), first)
    assert state == [state[0], 3]
    if kind not in ("seeds", "a branch"):
        assert len({row.tobytes() for value in first for row in value}) == 12


def test_the_iterations_of_a_loop_draw_different_numbers():
    def collected(value):
        return tf.map_fn(lambda _: tf.random.uniform(()), tf.range(50.0))

    _, run = micro_batches(collected)

    assert len({*np.concatenate(run())}) == 150


def test_operations_with_the_same_seed_draw_the_same_numbers_and_others_do_not():
    def pairs(value):
        image, mask = (tf.random.shuffle(tf.range(20), seed=5) for _ in range(2))
        return tf.stack([image, mask, tf.random.shuffle(tf.range(20)), tf.random.shuffle(tf.range(20))])

    _, run = micro_batches(pairs)

    for image, mask, one, other in run():
        assert np.array_equal(image, mask)
        assert len({part.tobytes() for part in (image, one, other)}) == 3


def test_functions_traced_elsewhere_and_eager_code_keep_their_operations():
    with DRAWS.replacing(STRATEGY):
        tf.random.set_seed(1)
        inside = tf.random.normal((3,))
    tf.random.set_seed(1)

    assert np.array_equal(tf.random.normal((3,)), inside)
    assert [op.type for op in tf.function(lambda: tf.random.normal((3,))).get_concrete_function().graph.get_operations()
            if op.type.startswith("Random")] == ["RandomStandardNormal"]  # fmt: skip


SAVES = {"max_steps": 8, "save_steps": 4, "save_strategy": "steps", "learning_rate": 0.01, "logging_steps": 1}
RUNS = {
    "plain": {},
    "accumulated, ragged": {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
    "several updates in one call": {"steps_per_execution": 2},
    "evaluated in between": {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": classified(16)},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNS)
def test_two_runs_are_alike_and_a_resumed_run_goes_on_exactly(make_trainer, tmp_path, caplog, case):
    def run(folder, resume=None, **extra):
        options = {**SAVES, **RUNS[case], **extra, "output_dir": str(tmp_path / folder)}
        trainer = make_trainer(model=model(), **options)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer.model)

    one, two = run("one"), run("two", eval_strategy="no")
    resumed = run("one", str(tmp_path / "one" / "checkpoint-4"))

    assert np.array_equal(one, two)
    assert np.array_equal(one, resumed)
    assert "resumed run will differ" not in caplog.text


@pytest.mark.slow
def test_xla_draws_exactly_too(make_trainer, tmp_path, caplog):
    def run(folder, resume=None):
        options = {**SAVES, "xla": True, "output_dir": str(tmp_path / folder)}
        trainer = make_trainer(model=model("plain", "a loop", "a branch", "seeds"), **options)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer.model)

    one = run("one")

    assert np.array_equal(run("two"), one)
    assert np.array_equal(run("one", str(tmp_path / "one" / "checkpoint-4")), one)


@pytest.mark.slow
def test_an_update_in_pieces_draws_what_one_in_one_piece_draws(make_trainer):
    trained = []
    for events in ((), ("on_substep_end",)):
        trainer = make_trainer(
            model=model(), max_steps=4, gradient_accumulation_steps=2, per_device_train_batch_size=4, learning_rate=0.01
        )
        for event in events:
            trainer.on(event)(lambda sender, **kwargs: None)
        trainer.train()
        trained.append(weights_of(trainer.model))

    np.testing.assert_allclose(*trained, rtol=1e-5, atol=1e-7)


def test_an_evaluation_that_draws_is_the_same_after_a_resume(make_trainer, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": classified(16), "loss_fn": LOSS, **SAVES}

    def run(resume=None):
        trainer = make_trainer(model=model("plain", always=True), **options)
        trainer.train(resume_from_checkpoint=resume)
        return [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]

    whole = run()

    assert run(str(tmp_path / "out" / "checkpoint-4")) == whole
    assert len({*whole}) == 4


class Chosen(keras.layers.Layer):
    """Chooses in Python, when it is traced, as keras.layers.AugMix does."""

    def call(self, value, training=False):
        return value * (1 + np.random.rand() + random.random()) if training else value


def test_what_python_draws_while_the_step_is_traced_is_of_the_seed_and_leaves_its_generators(make_trainer, tmp_path):
    def run(resume=None):
        keras.utils.set_random_seed(0)
        chosen = keras.Sequential([keras.Input((6,)), Chosen(), keras.layers.Dense(3)])
        trainer = make_trainer(model=chosen, **SAVES)
        drawn = []
        trainer.on("on_step_end")(lambda sender, **kwargs: drawn.append((random.random(), np.random.rand())))
        trainer.train(resume_from_checkpoint=resume)
        return drawn, weights_of(trainer.model)

    drawn, whole = run()
    rest, resumed = run(str(tmp_path / "out" / "checkpoint-4"))

    assert rest == drawn[4:]
    assert np.array_equal(resumed, whole)


class Sampled(TFTrainer):
    def compute_loss(self, labels, logits):
        drawn, *_ = tf.random.log_uniform_candidate_sampler(tf.zeros((1, 1), tf.int64), 1, 2, True, 3)
        return tf.reduce_mean(logits, axis=-1) * tf.cast(drawn[0], tf.float32)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4}])
def test_what_cannot_be_exact_is_told_once_by_name(make_trainer, caplog, options):
    trainer = make_trainer(cls=Sampled, model=model(), eval_dataset=classified(8), num_train_epochs=1, **options)

    with caplog.at_level(logging.WARNING, logger="trackside"):
        trainer.train()
        trainer.evaluate()

    assert caplog.text.count("resumed run will differ: the model draws by LogUniformCandidateSampler, whose") == 1


REPLICAS = """
import json, sys, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, numpy as np
from support.arrays import classified
from support.tf_models import weights_of
from trackside import TFTrainer, TFTrainingArguments

seen = []

class Layer(keras.layers.Layer):
    def call(self, value, training=False):
        if not training:
            return value
        drawn = tf.random.normal((3,))
        tf.py_function(lambda drawn: seen.append(drawn.numpy().tobytes()), [drawn], [])
        return tf.nn.dropout(value, 0.5) + tf.reduce_sum(drawn)

def made():
    return keras.Sequential([keras.Input((6,)), Layer(), keras.layers.Dense(3)])

def run(folder, resume=None):
    keras.utils.set_random_seed(0)
    args = TFTrainingArguments(folder, max_steps=6, save_steps=3, disable_tqdm=True, per_device_train_batch_size=3,
        gradient_accumulation_steps=2, learning_rate=0.01)
    trainer = TFTrainer(None, args, classified(23), model_init=made, loss_fn="sparse_categorical_crossentropy")
    trainer.pop_callback("printer")
    trainer.train(resume_from_checkpoint=resume)
    return weights_of(trainer.model).tolist()

one = run("one")
draws = len(seen), len(set(seen))
print(json.dumps([draws, one == run("two"), one == run("one", "one/checkpoint-3")]))
"""


@pytest.mark.slow
def test_each_replica_draws_its_own_numbers_which_a_resumed_run_draws_again():
    draws, reproduced, resumed = json.loads(run_alone(REPLICAS).splitlines()[-1])

    assert draws == [6 * 2 * 2, 6 * 2 * 2]
    assert reproduced
    assert resumed
