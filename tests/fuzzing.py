"""Damage at random but repeatable, to bytes, values and pickles; and the watch over each case."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from olmo.config import read_settings
from olmo.outside import OutsideError

SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "12"))
"""For each of the kinds below: all of them together stay below three minutes."""
LONGEST_S = 15
"""A single case that takes longer hangs."""
MOST_MEMORY = 3 << 30
"""Bytes by which the process may grow."""
AT_LEAST = 20
"""Cases of a kind, or the test is too slow to say anything."""


@dataclass
class Payload:
    """Unpickling it leaves a file."""

    marker: Path

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return os.mkdir, (str(self.marker),)


NUMBERS = (0, 1, -1, 2**31, 2**63, 10**15, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"))
TEXTS = (
    *("", " ", "\x00", "\ud800", "x" * 5000, "12:30.mp4", "a\nb", "é" * 200, "<|image|>"),
    *("../../etc/passwd", "/dev/zero", "~", "file:///etc/passwd", "http://127.0.0.1:1/x"),
    *("${oc.env:HOME}", "${a}", "!!python/object/apply:os.mkdir [x]", "*a", "&a [*a]", "{", "- -"),
    *("null", "0612", "1:30", "yes", "nan", "1e999", "[1,", "{a: {b:", "# x", "'", "%s", "a=b"),
)


DEEP = "@deep@"
"""Stands for lists in lists, which ``dump`` writes and Python's own writer cannot."""


def dump(tree: Any) -> str:
    """JSON of ``tree``."""
    return json.dumps(tree).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def nasty(rng: random.Random) -> Any:
    """A value that a careless reader trips over."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice((None, True, False, [], {}, [[]], {"": ""}))
    if kind == 3:
        return [nasty(rng) for _ in range(rng.randrange(4))]
    if kind == 4:
        return {str(rng.choice(TEXTS)): nasty(rng) for _ in range(rng.randrange(3))}
    return DEEP


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bits, runs, cuts, copies, and numbers of the sizes that headers hold."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = min(int(rng.random() ** rng.choice((1, 3)) * len(out)), len(out) - 1)
        n = min(rng.choice((1, 2, 4, 16, 200)), len(out) - at)
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + n] = bytes([rng.choice((0, 255, 128))]) * n
        elif kind == 2:
            out[at : at + n] = rng.randbytes(n)
        elif kind == 3:
            del out[at : len(out) if rng.random() < 0.3 else at + n]
        elif kind == 4:
            out[at:at] = out[at : at + n]
        elif kind == 5:
            number = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(out), 1 << 20))
            out[at : at + 4] = struct.pack(rng.choice((">I", "<I")), number)
        else:
            other = rng.randrange(len(out))
            out[at : at + n] = out[other : other + n]
    return bytes(out)


def damage_tree(tree: Any, rng: random.Random) -> Any:
    """A copy of nested dicts and lists with one value, key or branch changed."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        out = dict(tree)
        kind = rng.randrange(8)
        if kind == 0:
            del out[key]
        elif kind == 1:
            out[str(rng.choice(TEXTS))] = nasty(rng)
        else:
            out[key] = damage_tree(tree[key], rng)
        return out
    if isinstance(tree, list) and tree and rng.random() < 0.7:
        i = rng.randrange(len(tree))
        return [*tree[:i], damage_tree(tree[i], rng), *tree[i + 1 :]]
    return nasty(rng)


Errors = type[Exception] | tuple[type[Exception], ...]


@contextmanager
def watched(marker: Path, case: str, named: Errors) -> Iterator[None]:
    """The case ends in time, and with a named error or none; nothing in it has run."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"{case}: no end after {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST_S)
    try:
        yield
    except named as e:
        assert str(e).strip(), f"{case}: an error without a word"
    except AssertionError:
        raise
    except BaseException as e:
        raise AssertionError(f"{case}: {type(e).__name__}: {e}") from e
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not marker.exists(), f"{case}: the payload ran"


Attempt = Callable[[random.Random], None]
"""Makes one damaged input and reads it."""


def run(name: str, attempt: Attempt, marker: Path, named: Errors = OutsideError) -> None:
    start, memory, done = _cpu(), _memory(), 0
    while _cpu() - start < SECONDS:
        case = f"{name}:{SEED}:{done}"
        with watched(marker, case, named):
            attempt(random.Random(case))
        done += 1
    assert done >= AT_LEAST, f"{name}: only {done} cases"
    assert _memory() - memory < MOST_MEMORY, f"{name}: {(_memory() - memory) >> 20} MiB more"


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def poisoned_pickle(data: bytes, marker: Path, rng: random.Random) -> bytes:
    """A call spliced into a pickle, at a place of a push, or in front."""
    call = pickle.dumps(Payload(marker), 2)[2:-1] + b"0"  # without header and stop; result dropped
    at = rng.choice((2, 2, rng.randrange(2, len(data))))
    return data[:at] + call + data[at:]


class _Unpickler(pickle.Unpickler):
    """Of our own fixtures alone; one of them names a class of another project."""

    def find_class(self, module: str, name: str) -> Any:
        return _StorageInfo if name == "_StorageInfo" else super().find_class(module, name)


def damage_metadata(file: Path, marker: Path, rng: random.Random) -> None:
    """Well-formed metadata of a sharded checkpoint that says something else of one entry."""
    with file.open("rb") as opened:
        metadata = _Unpickler(opened).load()
    index = rng.choice(list(metadata.storage_data))
    entry, info = metadata.state_dict_metadata[index.fqn], metadata.storage_data[index]
    kind = rng.randrange(7)
    if kind == 0:  # a pickled object in place of a tensor, as torch would load it
        torch.save(Payload(marker), file.with_name("x.distcp"))
        length = file.with_name("x.distcp").stat().st_size
        metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
        metadata.storage_data[MetadataIndex(index.fqn)] = _StorageInfo("x.distcp", 0, length)
    elif kind == 1:
        name = rng.choice(("../x", "/dev/zero", "", ".", "x" * 300, "\x00", info.relative_path * 2))
        metadata.storage_data[index] = dataclasses.replace(info, relative_path=name)
    elif kind == 2:
        value = rng.choice((-1, 0, 1, info.offset + 1, 10**12, 2**70))
        what = rng.choice(("offset", "length"))
        metadata.storage_data[index] = dataclasses.replace(info, **{what: value})
    elif kind == 3:
        del metadata.storage_data[index]
    elif kind == 4:
        del metadata.state_dict_metadata[index.fqn]
    elif hasattr(entry, "chunks"):
        chunk = rng.choice(entry.chunks)
        sizes = rng.choice((entry, chunk)) if kind == 5 else chunk
        name = "size" if sizes is entry else rng.choice(("sizes", "offsets"))
        values = list(getattr(sizes, name)) or [1]
        values[rng.randrange(len(values))] += rng.choice((-1, 1, 10**9, 10**15, -(10**9)))
        setattr(sizes, name, torch.Size(values))
    file.write_bytes(pickle.dumps(metadata))


def damage_file(file: Path, marker: Path, rng: random.Random) -> None:
    """By the file's kind."""
    data = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.7:
        tree = damage_tree(json.loads(data), rng)
        file.write_text(dump(tree), errors="surrogatepass")
    elif file.suffix == ".yaml" and rng.random() < 0.7:
        tree = damage_tree(read_settings(file), rng)
        text = dump(tree) if rng.random() < 0.5 else str(tree)  # JSON is YAML
        file.write_text(text, errors="surrogatepass")
    elif file.name == ".metadata" and rng.random() < 0.7:
        if rng.random() < 0.6:
            damage_metadata(file, marker, rng)
        else:
            file.write_bytes(poisoned_pickle(data, marker, rng))
    else:
        file.write_bytes(damage_bytes(data, rng))
