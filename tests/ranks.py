"""Processes of one group, forked from a server that has imported the trainer once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing

PRELOADED = ["olmo.train.run", "tests.train.two_ranks"]


def start_ranks(function: Callable[..., None], n: int, *args: Any) -> None:
    """``function(rank, *args)`` in ``n`` processes; returns when all are done, raises what one of
    them raises."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(function, args, nprocs=n, start_method="forkserver")
