"""The error of a checkpoint that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from olmo.distributed import broadcast_object, gather_object
from olmo.outside import OutsideError, describe

T = TypeVar("T")


class CheckpointError(OutsideError):
    """A checkpoint that cannot be read; the message names the file and the key."""


def everywhere(action: Callable[[], T]) -> T:
    """``action``'s result on this rank; every rank calls this. If it fails on any, as what is read
    there is wrong, all raise one ``CheckpointError``."""
    result, error = None, None
    try:
        result = action()
    except (ValueError, OSError) as e:
        error = str(e) or describe(e)
    errors = gather_object(error)
    error = broadcast_object(next((e for e in errors or () if e is not None), None))
    if error is not None:
        raise CheckpointError(error)
    return result  # type: ignore[return-value]
