from __future__ import annotations

import sys

import pytest
from support.tracker_readers import WANDB_QUIET

from trackside.integrations._compat.wandb_service import service_errors

wandb = pytest.importorskip("wandb")


def test_wandb_refuses_an_id_that_is_in_use_with_the_type_that_is_caught_here(tmp_path):
    options = {"dir": str(tmp_path), "mode": "offline", "id": "used", "reinit": "create_new"}
    run = wandb.init(**options, settings=wandb.Settings(**WANDB_QUIET))

    with pytest.raises(service_errors()):
        wandb.init(**options, settings=wandb.Settings(**WANDB_QUIET))

    run.finish()


def test_without_the_private_type_nothing_is_caught(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb.sdk.mailbox.mailbox_handle", None)

    assert service_errors() == ()
