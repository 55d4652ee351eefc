"""State of a Keras model in a checkpoint: what Keras leaves out, what evaluations leave alone, and older files."""

from __future__ import annotations

import errno
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import mlp, weights_of

from trackside.trainer.checkpointing.manifest import MANIFEST, roles_of, seal
from trackside.trainer.tensorflow import snapshot
from trackside.trainer.tensorflow.weights.keras_files import write_keras_weights
from trackside.trainer.tensorflow.weights.model_state import everything

layers = keras.layers
ARRAYS = np.random.default_rng(0).normal(size=(32, 5, 2)).astype(np.float32)
OPTIONS = {"max_steps": 8, "logging_steps": 1, "save_strategy": "steps", "save_steps": 4, "loss_fn": "mse"}


class Noise(layers.Layer):
    """Draws from Keras' global generator."""

    def call(self, x, training=False):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


class Generator(layers.Layer):
    def __init__(self):
        super().__init__()
        self.generators = {"a": tf.random.Generator.from_seed(3)}

    def call(self, x, training=False):
        return x + self.generators["a"].normal(tf.shape(x)) if training else x


class Held:
    """An object that Keras does not know."""

    def __init__(self):
        self.dense = layers.Dense(2)


class Untracked(layers.Layer):
    def __init__(self):
        super().__init__()
        self.held = Held()
        self.scale = tf.Variable(np.random.default_rng().normal(size=2).astype(np.float32))
        self.seen = tf.Variable(0.0)

    def build(self, shape):
        self.held.dense.build(shape)

    def call(self, x):
        self.seen.assign_add(1.0)
        return self.held.dense(x) * self.scale + self.seen


class Counts(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.seen.assign_add(1.0)
        return x + self.seen


LAYERS = {
    "keras.random without a seed": Noise,
    "tf.random.Generator": Generator,
    "untracked": Untracked,
    "counts": Counts,
    "stateful RNN": lambda: layers.LSTM(3, stateful=True, return_sequences=True, dropout=0.2),
    "normalization": lambda: layers.Normalization(mean=None, variance=None),
    "LoRA": lambda: layers.Dense(2, lora_rank=1),
}


def model_with(layer):
    keras.utils.set_random_seed(np.random.randint(1000))
    inputs = keras.Input(batch_shape=(8, 5, 2))
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(layer()(inputs))))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_resumed_run_has_all_state_and_an_evaluation_changes_none_of_it(make_trainer, tmp_path, kind):
    data = ARRAYS, ARRAYS[:, -1, :1]

    def losses(folder, resume=None, **options):
        trainer = make_trainer(
            model=model_with(LAYERS[kind]), train_dataset=data, eval_dataset=data, output_dir=str(tmp_path / folder),
            per_device_train_batch_size=8, per_device_eval_batch_size=8, **OPTIONS, **options,
        )  # fmt: skip
        if resume is None:
            trainer.model.set_weights(first)
        trainer.train(resume_from_checkpoint=resume)
        return [record["loss"] for record in trainer.state.log_history if "loss" in record]

    first = model_with(LAYERS[kind]).get_weights()
    whole = losses("a") if kind != "untracked" else None
    evaluated = losses("b", eval_strategy="steps", eval_steps=1)

    assert whole in (None, evaluated)
    assert losses("b", tmp_path / "b" / "checkpoint-4") == evaluated


IMAGE_LAYERS = {
    "RandomFlip": (),
    "RandomRotation": (0.2,),
    "RandomZoom": (0.2,),
    "RandomTranslation": (0.2, 0.2),
    "RandomContrast": (0.5,),
    "RandomBrightness": (0.5,),
    "RandomHue": (0.3,),
    "RandomSaturation": (0.5,),
    "RandomErasing": (),
    "RandomGaussianBlur": (),
    "RandomInvert": (),
    "RandomShear": (0.2, 0.2),
    "RandomPosterization": (4,),
    "RandomSharpness": (0.5,),
    "RandomGrayscale": (),
    "RandomColorJitter": (),
    "RandomColorDegeneration": (0.5,),
    "RandomPerspective": (),
    "RandomElasticTransform": (),
    "AugMix": (),
    "RandAugment": (),
    "SpatialDropout2D": (0.3,),
    "Dropout": (0.3,),
    "GaussianDropout": (0.3,),
    "GaussianNoise": (0.3,),
    "AlphaDropout": (0.3,),
    "RandomCrop": (6, 6),
}
NOT_OF_ONE_IMAGE = {"MixUp", "CutMix", "SpatialDropout1D", "SpatialDropout3D"}
"""They take images with labels, or other shapes."""


def test_these_are_all_random_layers_of_keras():
    random = {name for name in dir(layers) if name.startswith("Random") or "Dropout" in name or "Mix" in name}

    assert random | {"GaussianNoise", "RandAugment"} == IMAGE_LAYERS.keys() | NOT_OF_ONE_IMAGE


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_every_random_layer_of_keras_draws_the_same_in_a_second_and_in_a_resumed_run(make_trainer, tmp_path, part):
    images = np.random.default_rng(0).random((16, 8, 8, 3)).astype(np.float32)
    data = images, images[:, 0, 0, :1]
    kinds = list(IMAGE_LAYERS.items())[part::3]  # several in a model: that of the last draws on what others gave it

    def losses(folder, resume=None):
        chain = [getattr(layers, name)(*options) for name, options in kinds]
        model = keras.Sequential([keras.Input((8, 8, 3)), *chain, layers.Flatten(), layers.Dense(1)])
        if resume is None:
            keras.utils.set_random_seed(1)
            model.set_weights([np.random.normal(size=weight.shape) for weight in model.get_weights()])
        options = {**OPTIONS, "max_steps": 4, "save_steps": 2, "output_dir": str(tmp_path / folder)}
        trainer = make_trainer(model=model, train_dataset=data, **options)
        trainer.train(resume_from_checkpoint=resume)
        return [record["loss"] for record in trainer.state.log_history if "loss" in record]

    whole = losses("a")

    assert losses("b") == whole
    assert losses("a", tmp_path / "a" / "checkpoint-2") == whole


def test_evaluation_sees_weights_that_were_loaded_after_it_was_traced(make_trainer, tmp_path):
    def make(mean):
        normalize = layers.Normalization(mean=None)
        normalize.build((None, 6))
        normalize.adapt(np.full((4, 6), mean, np.float32))
        model = keras.Sequential([keras.Input((6,)), normalize, layers.Dense(3)])
        return make_trainer(model=model, eval_dataset=classified(8))

    saved, other = make(0.5), make(100.0)
    saved.save_model(str(tmp_path / "saved"))
    other.evaluate()
    other.load_weights(tmp_path / "saved")

    assert other.evaluate()["eval_loss"] == saved.evaluate()["eval_loss"]


def test_a_checkpoint_of_an_earlier_version_resumes(make_trainer, tmp_path):
    options = {"model": mlp(dropout=0.3), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    first, second = make_trainer(**options), make_trainer(**{**options, "model": mlp(dropout=0.3)})
    first.train()
    folder = tmp_path / "out" / "checkpoint-2"
    second.load_weights(folder)
    old = shutil.copytree(folder, tmp_path / "old" / "checkpoint-2")
    (old / MANIFEST).unlink()
    (old / snapshot.WEIGHTS_FILE).unlink()
    write_keras_weights(second.model, old)
    seal(old, run_id="old", step=2, committed_at=1, roles=roles_of(path.name for path in old.iterdir()))

    second.train(resume_from_checkpoint=old)

    np.testing.assert_array_equal(weights_of(second.model), weights_of(first.model))


def test_values_that_a_snapshot_holds_do_not_change_when_training_goes_on(tmp_path):
    model = mlp()
    before, write = weights_of(model), snapshot.weights_writer(model, None)
    for variable in model.trainable_variables:
        variable.assign_add(tf.ones(variable.shape))
    write(tmp_path)

    other = mlp()
    snapshot._load_arrays(other, tmp_path / snapshot.WEIGHTS_FILE)

    np.testing.assert_array_equal(weights_of(other), before)


def test_a_file_that_the_system_refuses_is_an_error_with_its_number(tmp_path):
    values = everything(mlp())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OSError, match="os error") as caught:
            snapshot.write_arrays(values, tmp_path / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.errno == errno.EFBIG


def test_names_do_not_depend_on_the_counters_of_keras():
    assert list(everything(mlp())) == list(everything(mlp()))


def test_random_operations_of_the_step_that_can_be_restored_are_not_named(make_trainer, caplog):
    class Draws(layers.Layer):
        def call(self, x, training=False):
            return x + tf.random.normal(tf.shape(x)) if training else x

    def warnings_of(layer):
        caplog.clear()
        model = keras.Sequential([keras.Input((6,)), layer, layers.Dense(3)])
        make_trainer(model=model, max_steps=3).train()
        return [record.getMessage() for record in caplog.records if "training step draws" in record.getMessage()]

    assert warnings_of(Draws()) == warnings_of(Noise()) == warnings_of(layers.Dropout(0.3)) == []


def of_functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(4, name="same")(layers.Dense(4, name="other")(inputs)))


def variable(kind):
    return kind(np.random.default_rng().normal(size=(4, 4)).astype(np.float32), name="w")


PLACES = {
    "a list": lambda model: [layers.Dense(4, name="same"), layers.Dense(4, name="same")],
    "a dict": lambda model: {"b": layers.Dense(4), "a": layers.Dense(4)},
    "a tuple": lambda model: (layers.Dense(4), layers.Dense(4)),
    "nested lists": lambda model: [[layers.Dense(4), layers.Dense(4)], [layers.Dense(4)]],
    "a dict of lists": lambda model: {"x": [layers.Dense(4)], "y": [layers.Dense(4), layers.Dense(4)]},
    "weights": lambda model: [model.add_weight(shape=(4, 4), name=f"w{index}") for index in range(2)],
    "a keras.Variable": lambda model: variable(keras.Variable),
    "a tf.Variable": lambda model: variable(tf.Variable),
    "an object": lambda model: Held(),
    "one layer twice": lambda model: [layers.Dense(4)] * 2,
    "models of one name": lambda model: [keras.Sequential([layers.Dense(4, name="d")], name="s") for _ in range(2)],
    "a functional model": lambda model: of_functional(),
}


class Keeps(keras.Model):
    """Keeps its layers and weights in a place."""

    def __init__(self, place):
        super().__init__()
        self.kept = PLACES[place](self)
        self.head = layers.Dense(1)

    def call(self, value):
        kept = list(self.kept) if isinstance(self.kept, tuple) else self.kept  # which TensorFlow wraps
        parts = [kept.dense] if isinstance(kept, Held) else keras.tree.flatten(kept)
        for part in parts:
            value = part(value) if isinstance(part, layers.Layer) else value @ part
        return self.head(value)


@pytest.mark.parametrize("place", PLACES)
def test_weights_come_back_wherever_a_model_keeps_them(tmp_path, place):
    one, two = Keeps(place), Keeps(place)
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected, before = one(values), two(values)

    snapshot.weights_writer(one, None)(tmp_path)
    snapshot._load_arrays(two, tmp_path / snapshot.WEIGHTS_FILE)

    assert not np.array_equal(before, expected)
    np.testing.assert_array_equal(two(values), expected)
