"""Draw a map of digits: an autoencoder whose middle has two numbers, which are the place of a digit.

    python examples/gallery/map_of_digits_tf.py

1797 digits of scikit-learn. TensorFlow, with a functional model.
"""

from __future__ import annotations

import keras
from picture import run
from sklearn.datasets import load_digits

from trackside import TFTrainer, TFTrainingArguments

digits, labels = load_digits(return_X_y=True)
digits = (digits / 16).astype("float32")


def train(folder, max_steps=-1):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(96, "relu")(inputs)
    places = keras.layers.Dense(2, name="places")(hidden)
    hidden = keras.layers.Dense(96, "relu")(places)
    model = keras.Model(inputs, keras.layers.Dense(64, "sigmoid")(hidden))
    args = TFTrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=30,
        learning_rate=3e-3,
        per_device_train_batch_size=64,
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = TFTrainer(
        model,
        args,
        train_dataset=(digits, digits),
        eval_dataset=(digits, digits),
        loss_fn=keras.losses.MeanSquaredError(),
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    encoder = keras.Model(trainer.model.input, trainer.model.get_layer("places").output)
    x, y = encoder.predict(digits, verbose=0).T
    axes = figure.subplots()
    points = axes.scatter(x, y, c=labels, cmap="tab10", s=4)
    axes.legend(*points.legend_elements(), fontsize=6, ncols=2)
    axes.set(title="a map of digits", xticks=[], yticks=[])


if __name__ == "__main__":
    run("map_of_digits_tf", train, draw)
