from __future__ import annotations

import copy

import pytest
import torch

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.pytorch.optim.lion import Lion


def algorithm_two(params, grads_of_steps, lr, betas, weight_decay):
    """Chen et al. (2023), arXiv:2302.06675, algorithm 2, one element at a time."""
    params, momenta = list(params), [0.0] * len(params)
    for grads in grads_of_steps:
        for i, grad in enumerate(grads):
            mixed = betas[0] * momenta[i] + (1 - betas[0]) * grad
            sign = (mixed > 0) - (mixed < 0)
            params[i] -= lr * (sign + weight_decay * params[i])
            momenta[i] = betas[1] * momenta[i] + (1 - betas[1]) * grad
    return params


def test_ten_steps_are_those_of_the_papers_algorithm():
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(12, dtype=torch.float64))
    grads = torch.randn(10, 12, dtype=torch.float64)
    expected = algorithm_two(param.tolist(), grads.tolist(), 0.01, (0.8, 0.95), 0.1)
    optimizer = Lion([param], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)

    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()

    torch.testing.assert_close(param.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_it_goes_on_from_a_saved_state_as_if_never_stopped():
    def step(module, optimizer, seed):
        torch.manual_seed(seed)
        module(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    straight = torch.nn.Linear(3, 2)
    optimizer = Lion(straight.parameters(), lr=0.01, weight_decay=0.1)
    step(straight, optimizer, 1)
    resumed = copy.deepcopy(straight)
    other = Lion(resumed.parameters(), lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    step(straight, optimizer, 2)
    step(resumed, other, 2)

    assert torch.equal(straight.weight, resumed.weight)


def test_it_learns_and_leaves_parameters_without_gradient_alone():
    torch.manual_seed(0)
    used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = Lion([{"params": [used, unused]}, {"params": []}], lr=0.1, weight_decay=1.0)

    for _ in range(20):
        optimizer.zero_grad()
        loss = optimizer.step(lambda: _backward((used**2).sum()))

    assert loss < 0.1
    assert torch.equal(unused, torch.ones(3))


def _backward(loss):
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "lr=-1.0 is not allowed: at least 0"),
        ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0) is not allowed: two numbers from 0 to below 1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 is not allowed: at least 0"),
    ],
)
def test_values_out_of_range_are_refused(options, text):
    with pytest.raises(TracksideValueError) as caught:
        Lion([torch.nn.Parameter(torch.zeros(1))], **options)

    assert str(caught.value) == text


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()

    with pytest.raises(TracksideValueError, match="make the embedding with sparse=False"):
        Lion(embedding.parameters()).step()
