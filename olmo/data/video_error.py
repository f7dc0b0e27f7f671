"""The one error of whatever reads a video. It stands alone, so that PyAV is loaded only to read."""

from __future__ import annotations

from pathlib import Path

from olmo.outside import OutsideError


class VideoReadError(OutsideError, OSError):
    """A video that cannot be used. ``path`` and ``reason`` are kept as attributes."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read video {path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[type[VideoReadError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # so that it crosses worker processes
