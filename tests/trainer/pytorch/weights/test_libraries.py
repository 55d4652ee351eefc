"""Models of other libraries: checkpoints resume to the bit, and the library loads them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from trackside import Trainer, TrainingArguments

tf = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("diffusers")
pytest.importorskip("sentence_transformers")

from support import library_models as models  # noqa: E402
from support.torch_models import same, state_of  # noqa: E402

CASES = {**models.TRANSFORMERS, **models.ADAPTERS, **models.OTHERS}


@pytest.fixture(autouse=True)
def quiet():
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()


def trainer(case: Any, folder: Path, **options: Any) -> Trainer:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2, **options}
    args = TrainingArguments(str(folder), disable_tqdm=True, per_device_train_batch_size=4, **options)
    rows = [case.row(number) for number in range(16)]
    return Trainer(case.make(), args, train_dataset=rows, eval_dataset=rows)


def check(case: Any, tmp_path: Path) -> None:
    """Check that a run of ``case`` is resumed to the bit, and that folders hold the weights of their step."""
    at_step: dict[int, Any] = {}
    whole, resumed = trainer(case, tmp_path / "out"), trainer(case, tmp_path / "resumed")
    other = trainer(case, tmp_path / "other")
    whole.on("on_step_end")(lambda run, **rest: at_step.update({run.state.global_step: state_of(run.model)}))
    load = case.load or type(whole.model).from_pretrained

    whole.train()
    whole.save_model(str(tmp_path / "final"))
    resumed.train(str(tmp_path / "out" / "checkpoint-2"))
    other.load_weights(tmp_path / "final")

    assert not same(at_step[2], at_step[4])
    assert same(state_of(resumed.model), at_step[4])
    assert same(state_of(other.model), at_step[4])
    assert same(state_of(load(str(tmp_path / "out" / "checkpoint-2"))), at_step[2])
    assert same(state_of(load(str(tmp_path / "final"))), at_step[4])


@pytest.mark.parametrize("kind", CASES)
def test_a_model_resumes_to_the_bit_and_is_loaded_by_its_library(kind, tmp_path):
    check(CASES[kind], tmp_path)
    if kind == "marian":  # its save_pretrained drops the positions
        assert_written_once(tmp_path / "out" / "checkpoint-4")


def test_a_model_of_sentence_transformers_resumes_to_the_bit_and_is_loaded_by_it(tmp_path):
    make = models.encoder(str(tmp_path / "base"))

    check(models.Case(make, models.text, lambda folder: models.Encoder(folder, device="cpu")), tmp_path)
    assert_written_once(tmp_path / "out" / "checkpoint-4")


def assert_written_once(folder: Path) -> None:
    own, exported = (load_file(folder / name) for name in ("trackside_model.safetensors", "model.safetensors"))
    assert not own.keys() & exported.keys()
    assert len(exported) > 5 > len(own)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "mixtral", "segformer", "diffusers", "hub"])
def test_weights_that_save_pretrained_writes_as_they_are_are_written_once(kind, tmp_path):
    trainer(CASES[kind], tmp_path).train()

    assert len(list((tmp_path / "checkpoint-4").rglob("*.safetensors"))) == 1


def test_save_model_writes_the_names_that_a_model_is_published_under(tmp_path):
    run = trainer(CASES["mixtral"], tmp_path / "out")

    run.train()
    run.save_model(str(tmp_path / "final"))

    published = load_file(tmp_path / "final" / "model.safetensors")
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in published
    assert set(load_file(tmp_path / "out" / "checkpoint-4" / "model.safetensors")) == set(run.model.state_dict())


@pytest.mark.parametrize("kind", ["mixtral", "lora"])
def test_the_best_model_is_loaded_though_save_pretrained_writes_other_names(kind, tmp_path, caplog):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2}
    run = trainer(CASES[kind], tmp_path, **best)

    with caplog.at_level(logging.WARNING):
        run.train()

    other = trainer(CASES[kind], tmp_path)
    other.load_weights(run.state.best_model_checkpoint)
    assert same(state_of(run.model), state_of(other.model))
    assert not [record for record in caplog.records if "best" in record.message]
