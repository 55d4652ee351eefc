"""GaLore and APOLLO: which layers they project, the numbers of transformers, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from support.tiny_bert import tiny_bert
from torch import nn

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.trainer.pytorch.optim.low_rank import target_weights
from trackside.trainer.pytorch.optim.packaged import PACKAGED, check_targets

transformers = pytest.importorskip("transformers")

NAMES = [name for name, packaged in PACKAGED.items() if packaged.of_targets]


def needed(name):
    if PACKAGED[name].missing:
        pytest.skip(f"{PACKAGED[name].missing} is not installed")
    return name


def trained(folder, name, library=(Trainer, TrainingArguments), resume=None, **more):
    """Train a model whose dense layers have their gradients projected, and return the trainer and its weights."""
    trainer_class, args_class = library
    given = {"optim_target_modules": "all-linear", "optim_args": "rank=4, update_proj_gap=3", **more}
    args = args_class(
        output_dir=str(folder),
        optim=name,
        max_steps=6,
        learning_rate=1e-2,
        adam_epsilon=1e-6,
        train_sampling_strategy="sequential",
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **given,
    )
    data = [{"input_ids": [3 + i % 5, 4, 5], "labels": [i % 5, 1, 2]} for i in range(64)]
    trainer = trainer_class(model=tiny_bert(), args=args, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def projectors(trainer):
    return [state["projector"] for state in trainer.optimizer.state.values() if "projector" in state]


@pytest.mark.parametrize("name", ["galore_adamw", "galore_adafactor", "apollo_adamw"])
def test_it_trains_as_in_transformers_and_resumes_to_the_bit(name, tmp_path):
    whole, weights = trained(tmp_path / "ours", needed(name))
    _, theirs = trained(tmp_path / "theirs", name, (transformers.Trainer, transformers.TrainingArguments))
    resumed, same = trained(tmp_path / "ours", name, resume=str(tmp_path / "ours" / "checkpoint-4"))

    assert float((weights - theirs).abs().max()) < 1e-6
    assert torch.equal(weights, same)
    assert {projector.rank for projector in projectors(resumed)} == {4}
    assert len(projectors(whole)) == 7


def test_a_resumed_run_takes_other_options_of_the_projection(tmp_path, caplog):
    trained(tmp_path, needed("galore_adamw"))
    checkpoint = str(tmp_path / "checkpoint-4")

    smaller, _ = trained(tmp_path, "galore_adamw", resume=checkpoint, optim_args="rank=2, update_proj_gap=3")
    rarer, _ = trained(tmp_path, "galore_adamw", resume=checkpoint, optim_args="rank=4, update_proj_gap=99")
    plain, _ = trained(tmp_path, "adamw_torch", resume=checkpoint, optim_target_modules=None, optim_args=None)

    assert {projector.rank for projector in projectors(smaller)} == {2}
    assert {projector.update_proj_gap for projector in projectors(rarer)} == {99}
    assert plain.state.global_step == 6
    assert "that of the checkpoint is galore_torch.AdamW; its state does not fit and is dropped" in caplog.text


def test_a_projector_of_a_class_that_the_optimizer_does_not_have_is_not_loaded():
    args = TrainingArguments("out", optim=needed("galore_adamw"), optim_target_modules="all-linear", use_cpu=True)
    trainer = Trainer(tiny_bert(), args, train_dataset=[])
    optimizer = trainer.create_optimizer()
    state = {"step": 1, "projector": {"kind": "Tensor"}}

    with pytest.raises(CheckpointError, match="a projector of the class Tensor"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})


@pytest.mark.filterwarnings("ignore:optim_target_modules")
@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all-linear", ["0", "1.0", "1.1"]),
        ("all_linear", ["0", "1.0", "1.1"]),
        (["1"], ["1.0", "1.1"]),
        (r"1\.\d", ["1.0", "1.1"]),
        (["0"], ["0", "1.0"]),
    ],
)
def test_the_layers_are_those_that_transformers_takes(targets, found):
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.LayerNorm(2))

    weights = target_weights(model, targets)

    assert [id(each) for each in weights] == [id(model.get_submodule(name).weight) for name in found]


def test_targets_without_a_linear_layer_are_told():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))

    with pytest.raises(ArgumentError, match="names of trainable linear layers, which are: 0, 2"):
        target_weights(model, ["1"])
    with pytest.warns(UserWarning, match="optim_target_modules: 1 is not a linear layer"):
        target_weights(model, ["0", "1"])


def test_targets_and_optimizers_come_together(tmp_path):
    class Given(TrainingArguments):
        def validate(self):
            """Leave the packages aside."""

    for name in NAMES:
        with pytest.raises(ArgumentError, match=f"'all-linear' with optim='{name}'"):
            check_targets(Given(str(tmp_path), optim=name))
        check_targets(Given(str(tmp_path), optim=name, optim_target_modules=["attention"]))
    with pytest.raises(ArgumentError, match=r"optim_target_modules=\['q'\].*: only with optim='apollo_adamw'"):
        TrainingArguments(str(tmp_path), optim_target_modules=["q"])
    with pytest.raises(ArgumentError, match=r"within the backward pass.*use 'galore_adamw'"):
        TrainingArguments(str(tmp_path), optim="galore_adamw_layerwise", optim_target_modules="all-linear")


def test_groups_among_the_options_of_an_optimizer_are_used(tmp_path):
    model = nn.Linear(2, 2)
    groups = [{"params": [model.bias], "lr": 0.5}]
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1, "params": groups}),
    )

    (group,) = trainer.create_optimizer().param_groups

    assert (group["lr"], group["params"]) == (0.5, [model.bias])
