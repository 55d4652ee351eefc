"""A factory of trainers, for tests that hold for both: the same model, the same weights, the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.arrays import accuracy, classified


def first_weights() -> list[Any]:
    """The kernels (inputs, outputs) and biases of a 6-16-3 network."""
    generator = np.random.default_rng(0)
    shapes = [(6, 16), (16,), (16, 3), (3,)]
    return [(generator.normal(size=shape) * 0.3).astype(np.float32) for shape in shapes]


class Factory:
    """Makes trainers of one framework; call it with trainer options and arguments by their names."""

    framework: str
    weights_file: str  # in a checkpoint
    saved_file: str = "model.safetensors"  # in the folder of save_model
    options = (
        *("model", "train_dataset", "eval_dataset", "callbacks", "compute_metrics"),
        *("optimizers", "model_init", "loss_fn"),
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, cls: Any = None, **values: Any) -> Any:
        given = {name: values.pop(name) for name in self.options if name in values}
        if "model_init" not in given:
            given.setdefault("model", self.model())
        given.setdefault("train_dataset", self.dataset(40))
        given.setdefault("loss_fn", self.loss)
        args = {"output_dir": str(self.folder / "out"), "save_strategy": "no", "disable_tqdm": True, **values}
        trainer = (cls or self.trainer_class)(args=self.args_class(**args), **given)
        trainer.pop_callback("printer")
        return trainer

    def dataset(self, examples: int, *, seed: int = 0) -> Any:
        return self.from_arrays(*classified(examples, seed=seed))

    def unlabelled(self, examples: int) -> Any:
        return self.from_arrays(classified(examples)[0])

    def checkpoints(self, folder: str = "out") -> list[str]:
        return sorted(path.name for path in (self.folder / folder).glob("checkpoint-*"))


class Torch(Factory):
    framework = "pytorch"
    weights_file = "model.safetensors"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import torch

        from trackside import Trainer, TrainingArguments

        torch.set_num_threads(1)
        self.torch, self.loss = torch, torch.nn.CrossEntropyLoss()
        self.trainer_class, self.args_class = Trainer, TrainingArguments

    def from_arrays(self, *arrays: Any) -> Any:
        return self.torch.utils.data.TensorDataset(*map(self.torch.from_numpy, arrays))

    def model(self, dropout: float = 0.0) -> Any:
        nn = self.torch.nn
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        with self.torch.no_grad():
            for parameter, value in zip(model.parameters(), first_weights(), strict=True):
                parameter.copy_(self.torch.from_numpy(value.T.copy()))
        return model

    def weights(self, trainer: Any) -> Any:
        return np.concatenate([p.detach().numpy().T.ravel() for p in trainer.model.parameters()])

    def in_order(self) -> Any:
        """A trainer class that takes the training examples in order."""
        torch = self.torch

        class InOrder(self.trainer_class):  # type: ignore[misc, name-defined]
            def get_train_dataloader(self) -> Any:
                return torch.utils.data.DataLoader(self.train_dataset, batch_size=self.args.train_batch_size)

        return InOrder

    def stream(self, examples: int) -> Any:
        """A dataset of unknown length."""
        data = self.dataset(examples)

        class Stream(self.torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
            def __iter__(self) -> Any:
                return iter(data[index] for index in range(len(data)))

        return Stream()

    def disturbed(self, step: int, factor: float) -> Any:
        """A trainer class whose training loss is multiplied by ``factor`` in the update after ``step`` of them."""

        class Disturbed(self.trainer_class):  # type: ignore[misc, name-defined]
            def compute_loss(self, model: Any, inputs: Any) -> Any:
                loss = super().compute_loss(model, inputs)
                return loss * factor if model.training and self.state.global_step == step else loss

        return Disturbed


class TensorFlow(Factory):
    framework = "tensorflow"
    weights_file = "model.safetensors"
    saved_file = "model.weights.h5"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from support import tf_models as parts

        from trackside import TFTrainer, TFTrainingArguments

        self.parts, self.loss = parts, parts.LOSS
        self.trainer_class, self.args_class = TFTrainer, TFTrainingArguments

    def from_arrays(self, *arrays: Any) -> Any:
        return arrays

    def model(self, dropout: float = 0.0) -> Any:
        model = self.parts.mlp(dropout=dropout)
        model.set_weights(first_weights())
        return model

    def weights(self, trainer: Any) -> Any:
        return self.parts.weights_of(trainer.model)

    def in_order(self) -> Any:
        """A trainer class that takes the training examples in order."""
        tf = self.parts.tf

        class InOrder(self.trainer_class):  # type: ignore[misc, name-defined]
            def get_train_tfdataset(self) -> Any:
                return tf.data.Dataset.from_tensor_slices(self.train_dataset).batch(self.args.train_batch_size)

        return InOrder

    def stream(self, examples: int) -> Any:
        """A dataset of unknown length."""
        data = self.parts.tf.data.Dataset.from_tensor_slices(classified(examples))
        return data.filter(lambda features, label: True)

    def disturbed(self, step: int, factor: float) -> Any:
        """A trainer class whose training loss is multiplied by ``factor`` in the update after ``step`` of them."""
        from trackside.trainer.tensorflow.precision.amp import INITIAL_SCALE

        tf = self.parts.tf

        class Disturbed(self.trainer_class):  # type: ignore[misc, name-defined]
            def run_model(self, features: Any, labels: Any, training: bool) -> Any:
                loss, logits = super().run_model(features, labels, training)
                if not training:
                    return loss, logits
                now = tf.equal(self.optimizer.iterations.value, step)
                precision = self._engine.train_step.precision
                if precision.is_scaled:  # an update that was held back does not count
                    now &= tf.equal(precision.scale, INITIAL_SCALE)
                return loss * tf.where(now, np.float32(factor), np.float32(1.0)), logits

        return Disturbed


FACTORIES = {"pytorch": Torch, "tensorflow": TensorFlow}


def factory_of(framework: str, folder: Path) -> Factory:
    """Return the factory of a framework; where it is not installed, the test is skipped."""
    pytest.importorskip({"pytorch": "torch"}.get(framework, framework))
    return FACTORIES[framework](folder)


@pytest.fixture(params=sorted(FACTORIES))
def trainer_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    return factory_of(request.param, tmp_path)


@pytest.fixture
def both_factories(tmp_path: Path) -> list[Factory]:
    return [factory_of(name, tmp_path / name) for name in sorted(FACTORIES)]


@pytest.fixture(name="accuracy")
def accuracy_fixture() -> Any:
    return accuracy
