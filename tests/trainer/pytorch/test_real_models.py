"""Models of many kinds train, evaluate, predict, save and resume to the bit.

Their updates with accumulation are those of one large batch, or the run says why they are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trackside import Trainer, TrainingArguments
from trackside.trainer.evaluation.output_collector import leaves

tf = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("diffusers")
pytest.importorskip("sentence_transformers")

from support.real_models import MODELS, Kind  # noqa: E402
from support.torch_models import same, state_of  # noqa: E402

pytestmark = pytest.mark.slow
EXAMPLES = 10


@pytest.fixture(autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()


def trainer(kind: Kind, folder: Path, model: nn.Module | None = None, **options: Any) -> Trainer:
    given: dict[str, Any] = {name: options.pop(name) for name in ("optimizers", "compute_metrics") if name in options}
    values = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "remove_unused_columns": False}
    values |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "label_names": kind.label_names}
    args = TrainingArguments(str(folder), disable_tqdm=True, **{**values, **options})
    rows = [kind.row(number) for number in range(EXAMPLES)]
    data = {"train_dataset": rows, "eval_dataset": rows, "data_collator": kind.collate}
    return kind.trainer(kind.make() if model is None else model, args, **data, **given)


def with_weights(run: Trainer) -> dict[int, dict[str, Tensor]]:
    """Return what gets the weights after each update of a run."""
    at: dict[int, dict[str, Tensor]] = {}
    run.on("on_step_end")(lambda run, **rest: at.update({run.state.global_step: state_of(run.model)}))
    return at


def records_of(run: Trainer) -> list[dict[str, float]]:
    timed = ("runtime", "per_second")
    history = run.state.log_history
    return [
        {k: v for k, v in record.items() if not k.endswith(timed)} for record in history if "train_loss" not in record
    ]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_evaluates_resumes_to_the_bit_and_gets_its_best_weights(name: str, tmp_path: Path) -> None:
    kind, options = MODELS[name], {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    options["load_best_model_at_end"] = True
    whole, resumed = trainer(kind, tmp_path, **options), trainer(kind, tmp_path / "resumed", **options)
    at_step, resumed_at_step = with_weights(whole), with_weights(resumed)

    whole.train()
    resumed.train(str(tmp_path / "checkpoint-1"))

    assert not same(at_step[1], at_step[2])
    assert resumed_at_step.keys() == {2}
    assert same(resumed_at_step[2], at_step[2])
    assert records_of(resumed) == records_of(whole)
    best = Path(whole.state.best_model_checkpoint).name.removeprefix("checkpoint-")
    assert same(state_of(whole.model), at_step[int(best)])
    if hasattr(type(whole.model), "from_pretrained"):
        assert same(state_of(type(whole.model).from_pretrained(tmp_path / "checkpoint-1")), at_step[1])


@pytest.mark.parametrize("name", MODELS)
def test_predictions_have_a_row_for_each_example(name: str, tmp_path: Path) -> None:
    kind, seen = MODELS[name], []

    def count(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"labels": float(len(list(leaves(prediction.label_ids))))}

    run = trainer(kind, tmp_path, compute_metrics=count)

    metrics = run.evaluate()
    found = run.predict([kind.row(number) for number in range(EXAMPLES)]).predictions

    assert np.isfinite(metrics["eval_loss"])
    assert EXAMPLES in {len(leaf) for leaf in leaves(found) if np.ndim(leaf)}
    has_labels = bool(kind.label_names) or "labels" in kind.row(0)
    assert bool(seen) is has_labels


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if not kind.told and kind.trainer is Trainer])
def test_the_evaluation_loss_does_not_depend_on_the_batch_size(name: str, tmp_path: Path) -> None:
    losses = [
        trainer(MODELS[name], tmp_path, per_device_eval_batch_size=size).evaluate()["eval_loss"]
        for size in (3, EXAMPLES)
    ]

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_update_with_accumulation_is_that_of_one_large_batch_or_told(name: str, tmp_path: Path, caplog: Any) -> None:
    kind = MODELS[name]
    is_told = bool(kind.told) or kind.trainer is not Trainer

    def moved(size: int, accumulation: int) -> Tensor:
        model = kind.make()
        if not kind.told:  # without dropout
            model.eval().train = lambda mode=True: model  # type: ignore[method-assign,assignment]
        before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).clone()
        options: dict[str, Any] = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        if kind.trainer.create_optimizer is Trainer.create_optimizer:
            options["optimizers"] = (torch.optim.SGD(model.parameters(), lr=0.1), None)
        trainer(kind, tmp_path, model, max_steps=1, save_strategy="no", max_grad_norm=0, **options).train()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - before

    whole = moved(EXAMPLES, 1)
    halves, ragged = moved(EXAMPLES // 2, 2), moved(4, 3)

    assert ("one large batch" in caplog.text) is bool(kind.told)
    assert kind.told in caplog.text
    if not is_told:
        assert (halves - whole).abs().max() < 1e-5 * whole.abs().max()
        assert (ragged - whole).abs().max() < 1e-5 * whole.abs().max()
