"""The error of a checkpoint that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from olmo.distributed import gather
from olmo.outside import OutsideError, describe

T = TypeVar("T")


class CheckpointError(OutsideError):
    """A checkpoint that cannot be read; the message names the file and the key."""


def everywhere(action: Callable[[], T], kind: type[CheckpointError] = CheckpointError) -> T:
    """``action``'s result on this rank; every rank calls this. If it fails on any, as what is read
    there is wrong, all raise one error of ``kind``."""
    result, error = None, None
    try:
        result = action()
    except (ValueError, OSError) as e:
        error = str(e) or describe(e)
    for found in gather(error):
        if found is not None:
            raise kind(found)
    return result  # type: ignore[return-value]
