"""The error of a checkpoint that cannot be used."""

from __future__ import annotations

from olmo.outside import OutsideError


class CheckpointError(OutsideError):
    """A checkpoint that cannot be read; the message names the file and the key."""
