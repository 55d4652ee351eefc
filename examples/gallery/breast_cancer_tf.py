"""Tell malignant tumours from benign ones, with class weights, and show their scores.

    python examples/gallery/breast_cancer_tf.py

569 tumours, 30 measurements each, part of scikit-learn. TensorFlow, with metrics of Keras.
"""

from __future__ import annotations

import keras
from picture import run
from sklearn.datasets import load_breast_cancer

from trackside import EarlyStoppingCallback, TFTrainer, TFTrainingArguments

features, labels = load_breast_cancer(return_X_y=True)
features = ((features - features.mean(0)) / features.std(0)).astype("float32")
labels = 1 - labels  # 1 is malignant
train_data = features[:400], labels[:400]
eval_data = features[400:], labels[400:]


def train(folder, max_steps=-1):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=[keras.metrics.AUC(from_logits=True, name="auc")])
    args = TFTrainingArguments(
        folder,
        max_steps=max_steps,
        num_train_epochs=15,
        learning_rate=3e-3,
        per_device_train_batch_size=32,
        eval_strategy="epoch",
        save_strategy="no",
        overwrite_output_dir=True,
    )
    trainer = TFTrainer(
        model,
        args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        class_weight={0: 1.0, 1: 2.0},
        callbacks=[EarlyStoppingCallback(4, metric="auc")],
    )
    trainer.train()
    return trainer


def draw(trainer, figure):
    prediction = trainer.predict(eval_data)
    scores = keras.ops.convert_to_numpy(keras.ops.sigmoid(prediction.predictions[:, 0]))
    axes = figure.subplots()
    for kind, name in enumerate(("benign", "malignant")):
        axes.hist(scores[prediction.label_ids == kind], bins=20, range=(0, 1), alpha=0.6, label=name)
    axes.set(title="tumours by their score", xlabel="score", ylabel="tumours")
    axes.legend(fontsize=8)


if __name__ == "__main__":
    run("breast_cancer_tf", train, draw)
