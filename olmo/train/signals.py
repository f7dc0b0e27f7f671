"""Ending a run from outside: SIGTERM, SIGINT and SIGUSR1, a launcher that died, a folder in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
LAUNCHER = os.getppid()
"""As of this import, which comes before the first use of torchrun's store."""
LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""What a file system without locks answers."""


class StopSignal:
    """Remembers that the process was asked to end; the loop looks between two steps.

    The handlers are installed by the first use as a context manager in the main thread, and the
    old ones come back at its end.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def __enter__(self) -> StopSignal:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {s: signal.signal(s, self._receive) for s in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        log.warning("%s: the run ends with a checkpoint after this step", self.received)

    @property
    def orphaned(self) -> bool:
        """Whether torchrun died. Another run may then be under way in the same folder."""
        return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != LAUNCHER


@contextlib.contextmanager
def blocked_signals() -> Iterator[None]:
    """Processes started inside never see these signals; they end with their parent.

    A launcher signals the whole process group. Without this it would end the loader's workers
    before the trainer has taken its last step. The parent gets what arrives once the block ends;
    ``end_workers`` ends what was started.
    """
    resource_tracker.ensure_running()  # its start, otherwise inside, ends with unblocked signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers(batches: object) -> None:
    """End the processes of a loader's iterator.

    Python sends them SIGTERM at its own end and then waits for them; as it is blocked there, a
    process that an error ends would wait forever.
    """
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()
        for worker in batches._workers:
            worker.kill()


@contextlib.contextmanager
def folder_lock(folder: Path, patience: float = 60.0) -> Iterator[None]:
    """Hold ``folder`` for this process alone; the lock goes when the process ends in any way.

    A process of a killed run may be alive for some seconds, so this waits for up to ``patience``
    seconds. Raises ``BlockingIOError`` naming the folder if it is still in use then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline, waits = time.monotonic() + patience, False
    with (folder / LOCK_FILE).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as e:
                if e.errno in NO_LOCKS:
                    log.warning(
                        "%s: this file system has no locks; see that one run uses it", folder
                    )
                    break
                if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    raise BlockingIOError(f"{folder}: another process trains in this folder") from e
                if not waits:
                    log.warning("%s is in use: waiting up to %.0f s for it", folder, patience)
                waits = True
            time.sleep(0.2)
        yield
