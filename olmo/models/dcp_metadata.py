"""``.metadata`` of a ``torch.distributed.checkpoint`` folder, read without trusting it.

The file is a pickle, of a protocol that torch's own ``weights_only`` does not read. Here it is only
looked at: ``pickletools`` cuts it into opcodes, and those that put plain values together are
followed. Nothing is called and no class is looked up: what the file calls an object stays a
``Record``, and only what fits the few forms below becomes an ``Entry``.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import torch

from olmo.models.errors import CheckpointError
from olmo.models.tensors import Shape
from olmo.outside import foreign

METADATA = ".metadata"
MAX_SIZE, MAX_DIMS, MAX_NAME = 2**48, 8, 255
DTYPES = {f"torch.{k}": v for k, v in vars(torch).items() if isinstance(v, torch.dtype)}


class Chunk(NamedTuple):
    """A block of a tensor, and the bytes ``start`` to ``start + length`` of ``file`` that hold it
    as a small ``torch.save`` file of its own."""

    file: str
    start: int
    length: int
    name: str
    offsets: Shape
    sizes: Shape


@dataclass(frozen=True)
class Entry:
    """A stored tensor. ``dtype`` None is a pickled object instead, which is never read."""

    dtype: torch.dtype | None
    shape: Shape
    chunks: tuple[Chunk, ...]


def read_entries(folder: Path) -> dict[str, Entry]:
    """All that ``folder`` holds, by name.

    ``CheckpointError`` unless the chunks of each tensor tile it: every element is stored once.
    Whether the files are there is not looked at.
    """
    path = folder / METADATA
    with foreign(lambda reason: CheckpointError(f"{path}: not readable: {reason}")):
        return _entries(read_plain(path.read_bytes()))


@dataclass(eq=False, slots=True)
class Record:
    """A class or function that the pickle names, or an object of it and what it was made of."""

    kind: str
    state: Any = None


NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
VALUES = frozenset((*NUMBERS, "SHORT_BINUNICODE", "BINUNICODE"))
COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}


def read_plain(data: bytes) -> Any:
    """What the pickle ``data`` describes, as plain values and ``Record``; sets are lists."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for opcode, arg, _ in pickletools.genops(data):
        name = opcode.name
        if name in VALUES:
            stack.append(arg)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in NEW:
            stack.append(NEW[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = arg.split(" ") if arg else (stack.pop(-2), stack.pop())
            stack.append(Record(".".join(parts)))
        elif name in ("REDUCE", "NEWOBJ"):
            args, record = stack.pop(), stack.pop()
            is_dict = record.kind == "collections.OrderedDict" and not args
            stack.append({} if is_dict else Record(record.kind, args))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name in ("TUPLE", "APPENDS", "ADDITEMS", "SETITEMS") or name in COUNTS:
            start = len(stack) - COUNTS[name] if name in COUNTS else marks.pop()
            items = stack[start:]
            del stack[start:]
            if name.startswith("TUPLE"):
                stack.append(tuple(items))
            elif name.startswith("SET"):
                _set_items(stack[-1], items)
            else:
                stack[-1].extend(items)
        elif name == "STOP":
            break
        elif name not in ("PROTO", "FRAME"):
            raise UnpicklingError(f"checkpoint metadata may not use opcode {name}")
    return stack.pop()


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    # to hash a tuple of tuples of tuples, and so on, would end the process
    if any(type(key) not in (str, Record) for key in items[::2]):
        raise UnpicklingError("a key is neither a text nor an object")
    target.update(zip(items[::2], items[1::2], strict=True))


Places = dict[tuple[str, Shape | None], object]


def _entries(loaded: object) -> dict[str, Entry]:
    metadata, places = _fields(loaded, "Metadata"), Places()
    for key, info in metadata["storage_data"].items():
        index = _fields(key, "MetadataIndex")
        name, offset = index["fqn"], index.get("offset")
        place = (_text(name), None if offset is None else _sizes(offset))
        if place in places:
            raise UnpicklingError(f"{name!r} is stored twice")
        places[place] = info
    declared = metadata["state_dict_metadata"].items()
    entries = {_text(name): _entry(name, item, places) for name, item in declared}
    if places:
        raise UnpicklingError(f"{next(iter(places))[0]!r} is stored but not declared")
    return entries


def _entry(name: str, item: Any, places: Places) -> Entry:
    if item.kind.endswith(".BytesStorageMetadata"):
        return Entry(None, (), (_chunk((name, None), (), 0, places),))
    tensor = _fields(item, "TensorStorageMetadata")
    shape, dtype = _sizes(tensor["size"]), DTYPES[tensor["properties"].state[0].kind]
    chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in tensor["chunks"]]
    blocks = [(_sizes(chunk["offsets"]), _sizes(chunk["sizes"])) for chunk in chunks]
    if not tiles(shape, blocks):
        raise UnpicklingError(
            f"the chunks of {name!r} do not tile its shape {shape}: every element must be stored "
            "once"
        )
    found = [_chunk((name, o), s, math.prod(s) * dtype.itemsize, places) for o, s in blocks]
    return Entry(dtype, shape, tuple(found))


def _chunk(place: tuple[str, Shape | None], sizes: Shape, n_bytes: int, places: Places) -> Chunk:
    """Taken from ``places``. An error for a file outside the folder, or one with less than
    ``n_bytes``."""
    name, offsets = place
    if place not in places:
        raise UnpicklingError(f"no file is listed for a chunk of {name!r}")
    info = _fields(places.pop(place), "_StorageInfo")
    if info.get("transform_descriptors"):
        raise UnpicklingError(f"{name!r} is stored in a transformed form")
    if not is_plain_name(file := _text(info["relative_path"])):
        raise UnpicklingError(f"{name!r} is in {file!r}, not a file beside it")
    start, length = _sizes((info["offset"], info["length"]))
    if length < n_bytes:
        raise UnpicklingError(f"{name!r}: {length} bytes are listed for a chunk of {n_bytes}")
    return Chunk(file, start, length, name, offsets or (), sizes)


def is_plain_name(name: str) -> bool:
    """Whether ``name`` can only be a file in the folder of the file that names it."""
    short = len(name.encode(errors="surrogatepass")) <= MAX_NAME
    return short and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def tiles(shape: Shape, blocks: list[tuple[Shape, Shape]]) -> bool:
    """Whether ``blocks``, (offsets, sizes) each, are a grid that covers ``shape`` without a gap
    and without overlap. Empty blocks, which ranks without a share write, do not count."""
    if any(len(o) != len(shape) or len(s) != len(shape) for o, s in blocks):
        return False
    full = [(o, s) for o, s in blocks if math.prod(s)]
    if not math.prod(shape):
        return not full
    n_cells = 1
    for dim, size in enumerate(shape):
        spans = sorted({(o[dim], o[dim] + s[dim]) for o, s in full})
        ends = [0, *(stop for _, stop in spans)]
        if [start for start, _ in spans] != ends[:-1] or ends[-1] != size:
            return False
        n_cells *= len(spans)
    return n_cells == len(full) == len(set(full))


def _fields(item: Any, kind: str) -> dict[str, Any]:
    """What an object of this class was made of. ``KeyError`` later for a field that it lacks."""
    if item.kind.rpartition(".")[2] != kind or type(item.state) is not dict:
        raise UnpicklingError(f"not checkpoint metadata: {item.kind}, expected {kind}")
    return cast(dict[str, Any], item.state)


def _sizes(value: Any) -> Shape:
    if type(value) is Record and value.kind == "torch.Size":
        value = value.state[0]
    if isinstance(value, (tuple, list)) and len(value) <= MAX_DIMS:
        if all(type(n) is int and 0 <= n <= MAX_SIZE for n in value):
            return tuple(value)
    raise UnpicklingError("not checkpoint metadata: sizes that no tensor or file has")


def _text(value: object) -> str:
    if type(value) is str:
        return value
    raise UnpicklingError("not checkpoint metadata: no text")
