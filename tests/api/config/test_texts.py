"""What a trainer takes as a text in Python, it takes as that text in a configuration."""

from __future__ import annotations

import json
import sys

import pytest

from trackside.callbacks.errors import ConfigError, TracksideError
from trackside.cli.main import main
from trackside.config.component import FUNCTIONS
from trackside.config.json_schema import schema
from trackside.config.run_config import load_config
from trackside.testing.tiny_trainer import installed_frameworks, tiny_trainer

LOSS = "sparse_categorical_crossentropy"


def components(folder, text, framework="tensorflow"):
    path = folder / "run.yaml"
    path.write_text(f"framework: {framework}\n{text}\nargs: {{output_dir: out}}\n")
    return load_config([path]).components()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_configuration_takes_the_texts_that_the_trainer_takes(tmp_path, framework):
    if framework not in installed_frameworks():
        pytest.skip(f"{framework} is not installed")
    trainer, taken = tiny_trainer(framework, tmp_path), {}
    for name in FUNCTIONS:
        for how in ("Python", "YAML"):
            try:
                if how == "Python":
                    more = {name: LOSS, "eval_dataset": trainer.eval_dataset}
                    type(trainer)(trainer.model, trainer.args, train_dataset=trainer.train_dataset, **more)
                else:
                    assert components(tmp_path, f"{name}: {LOSS}", framework) == {name: LOSS}
                taken[name, how] = True
            except (TracksideError, TypeError):
                taken[name, how] = False

    assert [name for name in FUNCTIONS if taken[name, "Python"] != taken[name, "YAML"]] == []
    assert any(taken.values()) == (framework == "tensorflow")


def test_losses_of_several_outputs_are_named_by_output_or_in_order(tmp_path):
    pytest.importorskip("tensorflow")
    own = "keras.losses.Huber"

    by_name = components(tmp_path, f"loss_fn: {{a: mse, b: null, c: {{class_path: {own}}}}}")["loss_fn"]
    in_order = components(tmp_path, f"loss_fn: [mse, {{class_path: {own}}}]")["loss_fn"]

    assert (by_name["a"], by_name["b"], in_order[0]) == ("mse", None, "mse")
    assert by_name["c"].target is in_order[1].target
    for value in ("mse", {"a": "mse"}, ["mse"]):
        pytest.importorskip("jsonschema").validate({"loss_fn": value}, schema("tensorflow"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss_fn: sparse_categorical_entropy",
            r"run.yaml:2: loss_fn='sparse_categorical_entropy' .* Did you mean 'sparse_categorical",
        ),
        ("loss_fn: {a: mse, b: mea}", "run.yaml:2: loss_fn='mea' is not allowed"),
        ("loss_fn: {clas_path: keras.losses.Huber}", "class_path is needed"),
        ("loss_fn: {class_path: mse, init_args: {a: 1}}", "mse"),
    ],
)
def test_a_name_that_keras_does_not_have_is_told_with_the_nearest(tmp_path, text, message):
    pytest.importorskip("tensorflow")

    with pytest.raises(ConfigError, match=message):
        components(tmp_path, text)


@pytest.mark.slow
def test_a_run_with_a_named_loss_trains_and_so_does_what_it_left(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("model", "data"):  # those of this folder, and of no test after this one
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["init", "--framework", "tensorflow"]) == 0
    text = (tmp_path / "run.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("loss_fn:"))
    (tmp_path / "run.yaml").write_text(text.replace(line, f"loss_fn: {LOSS}"))

    assert main(["train", "run.yaml", "--max_steps", "2", "--output_dir", "one"]) == 0
    assert main(["train", "one/run.yaml", "--output_dir", "two", "--loss_fn", LOSS]) == 0

    one, two = (json.loads((tmp_path / name / "train_results.json").read_text()) for name in ("one", "two"))
    assert one["train_loss"] == two["train_loss"]
    assert main(["plan", "two/run.yaml"]) == 0
    assert LOSS in capsys.readouterr().out
