"""What comes from outside: one boundary around every foreign decoder.

Pillow, PyAV, torchcodec, zip, tar, parquet, safetensors and their like raise whatever they like for
damaged input. Each call of one stands in ``foreign``, so that nothing but a named error leaves it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class OutsideError(ValueError):
    """Something from outside that cannot be used; the message names the file, key or value."""


@contextlib.contextmanager
def foreign(named: Callable[[str], OutsideError]) -> Iterator[None]:
    """Turn whatever a foreign decoder raises inside into ``named(reason)``.

    Our own ``OutsideError`` passes as it is, and so does anything but an ``Exception`` (a signal).
    The panic of a Rust library is not an ``Exception`` either, but counts as damage.
    """
    try:
        yield
    except OutsideError:
        raise
    except BaseException as e:
        if isinstance(e, Exception) or type(e).__name__ == "PanicException":
            raise named(describe(e)) from e
        raise


def describe(error: BaseException) -> str:
    """One line, the type first: the message alone often says little."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
