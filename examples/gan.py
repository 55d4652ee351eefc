"""A generative adversarial network with two optimizers: points on a ring, from noise, in seconds.

python examples/gan.py
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainingArguments

NOISE = 4


def ring(points: int) -> Tensor:
    """Return points near the circle of radius 1."""
    angles = 2 * math.pi * torch.rand(points, generator=torch.Generator().manual_seed(0))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


class GAN(nn.Module):
    """A generator of points, and a discriminator between real and generated ones."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


class GANTrainer(Trainer):
    """Has an optimizer for each network, and a loss for each optimizer."""

    def create_optimizer(self) -> Any:
        generator, discriminator = self.model.generator.parameters(), self.model.discriminator.parameters()
        return {
            "generator": torch.optim.Adam(generator, lr=2e-3, betas=(0.5, 0.9)),
            "discriminator": torch.optim.Adam(discriminator, lr=4e-3, betas=(0.5, 0.9)),
        }

    def compute_loss(self, model: Any, inputs: Any) -> dict[str, Tensor]:
        (points,) = inputs
        made = model(torch.randn(len(points), NOISE, device=points.device))
        on_real, on_made = model.discriminator(points), model.discriminator(made)
        return {
            "generator": nn.functional.softplus(-on_made).mean(),
            "discriminator": nn.functional.softplus(-on_real).mean() + nn.functional.softplus(on_made).mean(),
        }


def distance_from_ring(model: GAN) -> float:
    """Return the mean distance of generated points from the ring."""
    with torch.no_grad():
        points = model(torch.randn(1000, NOISE, generator=torch.Generator().manual_seed(1)))
    return float((points.norm(dim=1) - 1).abs().mean())


def main(folder: str = "out/gan", max_steps: int = 1500) -> tuple[float, float]:
    """Train, and return the distance before and after."""
    torch.manual_seed(0)
    model = GAN()
    before = distance_from_ring(model)
    args = TrainingArguments(
        folder,
        max_steps=max_steps,
        per_device_train_batch_size=64,
        lr_scheduler_type="constant",
        save_strategy="no",
        logging_steps=500,
        overwrite_output_dir=True,
    )
    GANTrainer(model, args, train_dataset=TensorDataset(ring(2000))).train()
    return before, distance_from_ring(model)


if __name__ == "__main__":
    print("distance from the ring: {:.3f} before, {:.3f} after".format(*main()))
