"""A stand-in for torch_xla 2.9 on the CPU: the part of its documented interface that trackside uses, with its rules.

Arithmetic and collectives (gloo) are real; nothing is recorded, so that a forgotten sync() shows in the calls only.
What torch_xla calls deprecated is not here.
"""

import torch

from . import contract


def device(index=None):
    return torch.device("cpu")


def sync(wait=False, reset_scope=True):
    contract.demand(not wait, "sync does not wait in a step")
    contract.compare_cores()
    contract.state.calls.append("sync")
