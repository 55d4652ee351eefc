"""Skipping of an update in PyTorch: the buffers that its forward passes changed, its loss, and the loss scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...measuring.current_epoch import WatchedLosses


class TorchSkipsUpdates:
    """The methods of a training step by which an update is skipped, and those of a second sum of the losses."""

    trainer: Any
    losses: Any
    model_io: Any
    precision: Any
    strategy: Any
    _kept: tuple[list[tuple[nn.Module, str, Tensor]], Any] = ([], None)

    def keep_state(self) -> None:
        """Keep the buffers of the model, such as running statistics, but not masks, and the past of its outputs."""
        buffers = [
            (module, name, buffer.clone())
            for module in self.trainer.model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if buffer.dtype is not torch.bool
        ]
        self._kept = buffers, self.model_io.past

    def update_loss(self) -> float | None:
        """Return the mean loss of the update, over all processes; None if nothing counts. Waits for the device."""
        loss: float | None = self.losses.mean()
        return loss

    def take_back(self, *, is_kept: bool) -> None:
        """Restore what `keep_state` kept in this update, if it did; make of it one in which nothing counted."""
        if is_kept:
            buffers, self.model_io.past = self._kept
            with torch.no_grad():
                for module, name, value in buffers:
                    getattr(module, name).copy_(value)
        self.losses.take_back()
        self.precision.skip(self.trainer.optimizer)

    # -- the losses of updates ----------------------------------------------------------------------------------------

    def watch_losses(self) -> None:
        """Begin another sum of the losses of the updates, each as it was computed."""
        self.losses.watched = WatchedLosses(self.strategy.all_reduce)

    def take_watched_losses(self) -> tuple[float, int]:
        """Return that sum since the last call, and the updates in which nothing counted. Waits for the device."""
        taken: tuple[float, int] = self.losses.watched.take()
        return taken
