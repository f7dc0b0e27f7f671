"""Process groups: the same calls under torchrun and in a single plain process."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")


def init_distributed(timeout_minutes: float = 10) -> torch.device:
    """Join the process group that torchrun describes and return this rank's device.

    NCCL on GPUs, gloo on the CPU. Without torchrun's variables nothing is started: rank 0 of 1.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else None
    if device is not None:
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        timeout = datetime.timedelta(minutes=timeout_minutes)
        store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun keeps its store when it restarts the ranks: the addresses in it are of dead ones
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt_{attempt}", store)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timeout
        )
    return device or torch.device("cpu")


def close_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def get_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return get_rank() == 0


def all_reduce_sum(values: torch.Tensor, group: dist.ProcessGroup | None = None) -> torch.Tensor:
    """Sum over ranks, in place; returns ``values``."""
    if dist.is_initialized():
        dist.all_reduce(values, group=group)
    return values


def gather(obj: T) -> list[T]:
    """Every rank's object, by rank, on every rank."""
    if not dist.is_initialized():
        return [obj]
    out: list[Any] = [None] * get_world_size()
    dist.all_gather_object(out, obj)
    return out


def from_main(action: Callable[[], T]) -> T:
    """What ``action`` gives on rank 0, on every rank. If it fails, every rank does: rank 0 with its
    own error, the others with a ``ValueError`` where that is a mistake from outside, else with a
    ``RuntimeError``."""
    result, error = None, None
    if is_main():
        try:
            result = action()
        except Exception as e:
            error = e
    kind = ValueError if isinstance(error, (ValueError, OSError)) else RuntimeError
    box: list[Any] = [result, None if error is None else kind(str(error))]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise error or box[1]
    return cast(T, box[0])


def setup_logging() -> None:
    """Rank 0 logs from INFO on, other ranks from WARNING on, with their rank."""
    rank = int(os.environ.get("RANK", 0))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s r{rank} %(name)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # one process needs no group; torch says so at every save and load
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
    # nothing here changes a module's output in place
    warnings.filterwarnings("ignore", message=".* returned a view tensor. An in-place op")
