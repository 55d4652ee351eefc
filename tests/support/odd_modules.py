"""Modules whose weights are unusual in type, layout, name or sharing; each takes 3 features and gives 1."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


class Odd(nn.Module):
    """A linear layer, beside which a subclass keeps what it is about."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)
        self.build()

    def build(self) -> None:
        """Add what the module is about."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x))

    def inner(self, x: Tensor) -> Tensor:
        return x


class Transposed(Odd):
    def build(self) -> None:
        self.enc, self.dec = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.dec.weight = nn.Parameter(self.enc.weight.data.t())

    def inner(self, x: Tensor) -> Tensor:
        return self.dec(torch.tanh(self.enc(x)))


class Slices(Odd):
    """Two layers whose weights are overlapping slices of one piece of memory."""

    def build(self) -> None:
        self.register_buffer("memory", torch.randn(5, 3))
        self.first = nn.Parameter(self.memory[:3])
        self.second = nn.Parameter(self.memory[2:])

    def inner(self, x: Tensor) -> Tensor:
        return x @ self.first + x @ self.second


class Tied(Odd):
    """A weight that submodules share, one of them as its first rows."""

    def build(self) -> None:
        self.a, self.b = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))
        self.b[0].weight = self.a.weight
        self.register_buffer("head", self.a.weight.detach()[:1])

    def inner(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))) + self.head


class Types(Odd):
    def build(self) -> None:
        self.register_buffer("q", torch.randint(-9, 9, (4,), dtype=torch.int8))
        self.register_buffer("mask", torch.rand(4) > 0.5)
        self.register_buffer("bf16", torch.randn(2).bfloat16())
        self.register_buffer("eighth", torch.randn(4).to(torch.float8_e4m3fn))
        self.register_buffer("wave", torch.randn(3, dtype=torch.complex64))
        self.register_buffer("long_wave", torch.randn(3, dtype=torch.complex128))
        self.register_buffer("sixteen", torch.arange(3).to(torch.uint16))
        self.register_buffer("scalar", torch.randn(()))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("empty", torch.zeros(0, 4))
        self.register_buffer("void", torch.zeros(0, 4))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("quantized", torch.quantize_per_tensor(torch.randn(4), 0.1, 3, torch.qint8))
        self.register_buffer("kept_out", torch.randn(2), persistent=False)
        self.register_buffer("nothing", None)

    def inner(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.wave.mul_(1j)
            self.scalar.add_(1)
        return x * self.scalar.cos()


class Expanded(Odd):
    """A buffer that repeats one row, and one that is laid out by columns."""

    def build(self) -> None:
        self.register_buffer("row", torch.randn(1, 3).expand(4, 3))
        self.register_buffer("columns", torch.randn(3, 2).t())
        self.register_buffer("gaps", torch.randn(6)[::2])

    def inner(self, x: Tensor) -> Tensor:
        if self.training:
            self.row[:1].mul_(0.5)
            self.columns.add_(1)
        return x + self.row[0] + self.columns[0] + self.gaps


class Normed(Odd):
    def build(self) -> None:
        self.spectral = parametrizations.spectral_norm(nn.Linear(3, 3))
        self.normed = parametrizations.weight_norm(nn.Linear(3, 3))
        self.older = nn.utils.weight_norm(nn.Linear(3, 3))
        self.older_spectral = nn.utils.spectral_norm(nn.Linear(3, 3))
        self.turned = parametrizations.orthogonal(nn.Linear(3, 3))
        self.tripled = nn.Linear(3, 3)
        parametrize.register_parametrization(self.tripled, "weight", nn.Softplus())

    def inner(self, x: Tensor) -> Tensor:
        for layer in (self.spectral, self.normed, self.older, self.older_spectral, self.turned, self.tripled):
            x = torch.tanh(layer(x))
        return x


class Lazy(Odd):
    def build(self) -> None:
        self.lazy = nn.LazyLinear(3)

    def inner(self, x: Tensor) -> Tensor:
        return self.lazy(x)


class Hooked(Odd):
    """Saved under other names, by hooks, and read back by a hook."""

    def build(self) -> None:
        self.register_state_dict_post_hook(self._rename)
        self.register_load_state_dict_pre_hook(self._restore)

    @staticmethod
    def _rename(module: Any, state: Any, prefix: str, metadata: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}out.")]:
            state[f"{prefix}legacy/{name[len(prefix) :]}"] = state.pop(name)

    @staticmethod
    def _restore(module: Any, state: Any, prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}legacy/")]:
            state[prefix + name[len(f"{prefix}legacy/") :]] = state.pop(name)


class Extra(Odd):
    """Keeps data by get_extra_state."""

    def build(self) -> None:
        self.seen: dict[str, Any] = {"n": 0, "texts": ["a"], "best": None, "last": torch.zeros(2)}

    def get_extra_state(self) -> Any:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state

    def inner(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen["n"] += 1
            self.seen["texts"].append(f"step {self.seen['n']}")
            self.seen["last"].add_(1)
        return x


class ExtraTensor(Odd):
    def build(self) -> None:
        self.n = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.n)

    def set_extra_state(self, state: Tensor) -> None:
        self.n = int(state)

    def inner(self, x: Tensor) -> Tensor:
        self.n += self.training
        return x


class Code:
    """An object that is not data."""


class ExtraCode(Odd):
    def get_extra_state(self) -> Any:
        return {"object": Code()}

    def set_extra_state(self, state: Any) -> None:
        pass


def compiled(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: torch.compile(make(), backend="eager")  # type: ignore[return-value]


def compiled_in_place() -> nn.Module:
    model = Odd()
    model.compile(backend="eager")
    return model


def compiled_inside() -> nn.Module:
    layers = OrderedDict(first=torch.compile(nn.Linear(3, 3), backend="eager"), last=nn.Linear(3, 1))
    return nn.Sequential(layers)


class Scriptable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout, self.out = nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(self.layer(x)))


def traced() -> nn.Module:
    return torch.jit.trace(Scriptable().eval(), torch.zeros(2, 3))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "compiled": compiled(Odd),
    "compiled_in_place": compiled_in_place,
    "compiled_inside": compiled_inside,
    "compiled_parallel": compiled(lambda: nn.DataParallel(Odd())),
    "expanded": Expanded,
    "extra": Extra,
    "extra_tensor": ExtraTensor,
    "hooked": Hooked,
    "lazy": Lazy,
    "normed": Normed,
    "parallel": lambda: nn.DataParallel(Odd()),
    "parallel_compiled": lambda: nn.DataParallel(compiled(Odd)()),
    "scripted": lambda: torch.jit.script(Scriptable()),
    "scripted_inside": lambda: nn.Sequential(torch.jit.script(Scriptable())),
    "slices": Slices,
    "tied": Tied,
    "traced": traced,
    "transposed": Transposed,
    "types": Types,
}
