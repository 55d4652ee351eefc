"""Sandbox: lets a model be tried, which is afterwards what it was, and describes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any


class ModelSandbox(ABC):
    """A framework's part of the ways to try the model of one trainer.

    Args:
        engine: Its trainer's model is tried.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @abstractmethod
    def model_kept(self) -> AbstractContextManager[None]:
        """Return a context that ends with the model, its gradients and its modes as they were."""

    @abstractmethod
    def copied_optimizer(self, optimizer: Any) -> Any:
        """Return an optimizer of the user's as another one, of the same parameters; None for None."""

    @abstractmethod
    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that memory is exhausted."""

    @abstractmethod
    def free_memory(self) -> None:
        """Give unused memory of the device back."""

    @abstractmethod
    def summary(self) -> str:
        """Return the layers of the model, with their numbers of weights, as a table."""

    @abstractmethod
    def rate_of(self, optimizer: Any) -> float:
        """Return the highest learning rate of an optimizer."""
