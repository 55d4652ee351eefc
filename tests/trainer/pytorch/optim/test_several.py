"""Several optimizers and lazy modules train as by hand, and are resumed exactly."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.torch_models import classified, weights_of
from torch import nn
from torch.optim import LBFGS, SGD, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, UnsupportedError

LOSS = nn.CrossEntropyLoss()
DATA = classified(24, dtype=torch.float64)
EXAMPLE = Path(__file__).parents[4] / "examples" / "gan.py"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


def optimizers_of(model: Any) -> dict[str, Any]:
    return {"body": Adam(model.body.parameters(), 0.05), "head": SGD(model.head.parameters(), 0.1, momentum=0.9)}


class TwoTrainer(Trainer):
    """Has two optimizers with a schedule each, and a loss for each of them."""

    def create_optimizer(self) -> Any:
        return optimizers_of(self.model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        return [StepLR(part, 2, 0.5) for part in self.optimizer.parts.values()]

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        x, y = inputs
        logits = model(x)
        return {"body": LOSS(logits, y), "head": logits.square().mean()}


class OneSchedule(TwoTrainer):
    """Has the schedule of the arguments for both optimizers."""

    create_scheduler = Trainer.create_scheduler


def make(
    tmp_path: Any, model: Any, cls: Any = TwoTrainer, *, optimizers: Any = (None, None), **options: Any
) -> Trainer:
    values = {
        "per_device_train_batch_size": 4, "max_steps": 4, "logging_steps": 1, "max_grad_norm": 0, "disable_tqdm": True,
        "save_strategy": "no", "no_cuda": True, "lr_scheduler_type": "constant", **options,
    }  # fmt: skip
    loss_fn = LOSS if cls is Trainer else None
    args = TrainingArguments(str(tmp_path), **values)
    return cls(model, args, train_dataset=DATA, eval_dataset=DATA, loss_fn=loss_fn, optimizers=optimizers)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_loss_reaches_the_parameters_of_its_optimizer_only(tmp_path: Any, accumulation: int) -> None:
    size = 4 // accumulation
    trainer = make(tmp_path, Two(), gradient_accumulation_steps=accumulation, per_device_train_batch_size=size)

    trainer.train()

    model = Two()
    parts = optimizers_of(model)
    schedules = [StepLR(part, 2, 0.5) for part in parts.values()]
    loader = make(tmp_path, Two()).get_train_dataloader()
    for _, (x, y) in zip(range(4), loader, strict=False):
        logits = model(x)
        for name, loss in (("body", LOSS(logits, y)), ("head", logits.square().mean())):
            own = list(getattr(model, name).parameters())
            for parameter, gradient in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
                parameter.grad = gradient
        for part in (*parts.values(), *schedules):
            part.step()
    torch.testing.assert_close(weights_of(trainer.model), weights_of(model))
    records = [record for record in trainer.state.log_history if "grad_norm" in record]
    assert len(records) == 4
    for record in records:
        assert record["learning_rate_head"] == pytest.approx(2 * record["learning_rate_body"])
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("cls", [TwoTrainer, OneSchedule])
def test_a_run_with_several_optimizers_is_resumed_exactly(tmp_path: Any, cls: Any) -> None:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear"}
    whole = make(tmp_path, Two(), cls, **options)
    whole.train()

    resumed = make(tmp_path, Two(), cls, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))
    assert [group["lr"] for group in whole.optimizer.param_groups] == [
        group["lr"] for group in resumed.optimizer.param_groups
    ]


def test_the_gradients_of_all_optimizers_are_clipped_together(tmp_path: Any) -> None:
    model = Two()
    before = weights_of(model).clone()
    parts = [SGD(model.body.parameters(), 1.0), SGD(model.head.parameters(), 1.0)]

    make(tmp_path, model, Trainer, optimizers=(parts, None), max_grad_norm=0.01, max_steps=1).train()

    assert (weights_of(model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_mistakes_are_named(tmp_path: Any) -> None:
    class Misspelt(TwoTrainer):
        def compute_loss(self, model: Any, inputs: Any) -> Any:
            return {"boddy": super().compute_loss(model, inputs)["body"]}

    model = Two()
    twice = {"one": SGD(model.parameters(), 0.1), "two": SGD(model.head.parameters(), 0.1)}

    with pytest.raises(TracksideValueError, match=r"optimizer 'boddy'; known: body, head\. Did you mean 'body'"):
        make(tmp_path, Two(), Misspelt).train()
    with pytest.raises(TracksideValueError, match="'one' and 'two' have a parameter of shape"):
        make(tmp_path, model, Trainer, optimizers=(twice, None)).train()
    with pytest.raises(TracksideTypeError, match="with '1', a int; each must be"):
        make(tmp_path, model, Trainer, optimizers=([twice["one"], 3], None)).train()
    with pytest.raises(UnsupportedError, match="LBFGS, the optimizer '0', needs a closure"):
        make(tmp_path, model, Trainer, optimizers=([LBFGS(model.parameters())], None)).train()


CE, INDICES = nn.functional.cross_entropy, torch.arange
LOSSES_OF_BOTH: dict[str, tuple[Any, str]] = {
    "means": (lambda o, y: (CE(o, y), o.square().mean()), ""),
    "sums": (lambda o, y: (CE(o, y, reduction="sum"), o.square().sum()), ""),
    "divided": (lambda o, y: (CE(o, y) / 3, o.square().mean() / 3), ""),
    "one_ignores": (lambda o, y: (CE(o, y, ignore_index=0), o.square().mean()), "different numbers of items"),
    "both_ignore": (lambda o, y: (CE(o, y, ignore_index=0), CE(-o, y, ignore_index=0)), ""),
    "a_sum_and_a_mean": (lambda o, y: (CE(o, y, reduction="sum"), o.square().mean()), "it adds sums to means"),
    "a_root": (lambda o, y: (CE(o, y), o.square().mean().sqrt()), "it was computed by Sqrt"),
    "one_compares": (lambda o, y: (CE(o, y), CE(o @ o.T, INDICES(len(o)))), "its classes are the examples"),
    "weights": (lambda o, y: ((CE(o, y, reduction="sum"), len(o)), (o.square().sum(), 3 * len(o))), ""),
    "weight_and_mean": (lambda o, y: ((CE(o, y, reduction="sum"), len(o)), o.square().mean()), ""),
    "weight_and_sum": (lambda o, y: ((CE(o, y, reduction="sum"), len(o)), o.square().sum()), "do not grow together"),
    "own_weights": (lambda o, y: ((o.sum(), 1 + (y > 0).sum()), (o.square().sum(), len(o))), "do not grow together"),
}


@pytest.mark.parametrize("name", LOSSES_OF_BOTH)
def test_an_update_of_several_losses_is_that_of_one_large_batch_or_told_once(
    tmp_path: Any, name: str, caplog: Any
) -> None:
    losses, why = LOSSES_OF_BOTH[name]

    class Both(OneSchedule):
        def create_optimizer(self) -> Any:
            return {part: SGD(getattr(self.model, part).parameters(), 0.1) for part in ("body", "head")}

        def compute_loss(self, model: Any, inputs: Any) -> Any:
            return dict(zip(("body", "head"), losses(model(inputs[0]), inputs[1]), strict=True))

    def trained(size: int, accumulation: int) -> Trainer:
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = make(tmp_path, Two(), Both, max_steps=1, per_device_eval_batch_size=size, **options)
        trainer.train_dataset = classified(10, dtype=torch.float64)
        trainer.train()
        return trainer

    whole, cut = trained(10, 1), trained(4, 3)

    told = [record.message for record in caplog.records if "one large batch" in record.message]
    assert len(told) == bool(why)
    assert why in "".join(told)
    assert why == "do not grow together" or why in repr(cut.explain_batch())
    if not why:
        torch.testing.assert_close(weights_of(cut.model), weights_of(whole.model), rtol=0, atol=1e-12)
        assert cut.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"])
        assert cut.evaluate()["eval_loss"] == pytest.approx(whole.evaluate()["eval_loss"])


def test_the_example_of_a_gan_learns_the_ring(tmp_path: Any) -> None:
    before, after = runpy.run_path(str(EXAMPLE))["main"](str(tmp_path), max_steps=600)

    assert after < 0.6 * before


def test_a_dict_of_losses_for_one_optimizer_is_an_error_that_says_what_to_return(tmp_path: Any) -> None:
    def losses(outputs: Any, labels: Any) -> Any:
        return {"error": LOSS(outputs, labels), "size": outputs.square().mean()}

    with pytest.raises(TracksideValueError, match=r"dict of 'error', 'size': .*and the trainer has one"):
        Trainer(Two(), TrainingArguments(str(tmp_path)), train_dataset=DATA, loss_fn=losses).train()


# -- lazy modules -----------------------------------------------------------------------------------------------------


def lazy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)).double()


def test_lazy_modules_get_their_shapes_from_the_first_batch_and_train(tmp_path: Any) -> None:
    model = lazy()
    trainer = make(tmp_path, model, Trainer, optim="sgd", learning_rate=0.1, save_strategy="steps", save_steps=2)

    trainer.train()
    first = [tuple(parameter.shape) for parameter in model.parameters()]
    resumed = make(tmp_path, lazy(), Trainer, optim="sgd", learning_rate=0.1, save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    assert first == [(4, 6), (4,), (4,), (4,), (3, 4), (3,)]
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 6
    assert torch.equal(weights_of(model), weights_of(resumed.model))
    assert model[1].num_batches_tracked == 4


def test_a_lazy_module_that_the_loss_does_not_use_is_named(tmp_path: Any) -> None:
    model = Two()
    model.unused = nn.LazyLinear(2)

    with pytest.raises(TracksideValueError, match=r"unused\.weight, unused\.bias have no shape after the first batch"):
        make(tmp_path, model, Trainer).train()


class Around(Optimizer):
    """Steps the optimizers around which it is; what it has of each parameter itself is a mean of its gradients."""

    def __init__(self, *inner: Optimizer) -> None:
        self.inner = inner
        super().__init__([group for each in inner for group in each.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
            parameter.grad.copy_(mean.mul_(0.5).add_(parameter.grad))
        for each in self.inner:
            each.step()


class AroundOne(Around):
    """Has the groups of the only optimizer around which it is, and hands it those that it loads, as SAM does."""

    def __init__(self, *inner: Optimizer) -> None:
        super().__init__(SGD([parameter for each in inner for parameter in each.param_groups[0]["params"]], 0.1, 0.9))
        self.param_groups = self.inner[0].param_groups

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.inner[0].param_groups = self.param_groups


@pytest.mark.parametrize(("cls", "depth"), [(Around, 1), (Around, 2), (AroundOne, 1)])
@pytest.mark.parametrize("is_part", [False, True])
def test_the_state_of_optimizers_within_an_optimizer_is_resumed(
    tmp_path: Any, cls: Any, depth: int, is_part: bool
) -> None:
    def run(**options: Any) -> Trainer:
        model = Two()
        optimizer: Any = cls(*optimizers_of(model).values())
        optimizer = optimizer if depth == 1 else Around(optimizer)
        schedule = StepLR(optimizer, 2, 0.5)
        pair = ([optimizer], [schedule]) if is_part else (optimizer, schedule)
        options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, **options}
        return make(tmp_path, model, Trainer, optimizers=pair, **options)

    whole, resumed = run(), run()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    assert torch.equal(weights_of(whole.model), weights_of(resumed.model))
