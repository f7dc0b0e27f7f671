"""W&B without a key: said before training, never asked for."""

from __future__ import annotations

import pytest

pytest.importorskip("wandb")

import wandb

from olmo.outside import OutsideError
from olmo.train.callbacks import check_wandb


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)


@pytest.mark.parametrize("mode", [None, "online"])
def test_online_needs_a_key(mode: str | None) -> None:
    with pytest.raises(OutsideError, match=r"wandb login.*WANDB_API_KEY.*--wandb.mode=offline"):
        check_wandb(mode)


def test_offline_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    check_wandb("offline")
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        check_wandb(None)
