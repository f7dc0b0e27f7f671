"""``.metadata`` of a ``torch.distributed.checkpoint`` folder, read without trusting it.

The file is a pickle. The unpickler here calls nothing and touches no class: whatever object the
file describes stays a ``Record`` of plain values, and only what fits the few forms below becomes
an ``Entry``.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch

from olmo.models.errors import CheckpointError
from olmo.outside import foreign

METADATA = ".metadata"
MAX_SIZE, MAX_DIMS = 2**48, 8
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor, and the bytes ``start`` to ``start + length`` of ``file`` that hold it
    as a small ``torch.save`` file of its own."""

    offsets: Shape
    sizes: Shape
    file: str
    start: int
    length: int

    @property
    def numel(self) -> int:
        return math.prod(self.sizes)


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
        return _entries(_Unpickler(io.BytesIO(path.read_bytes())).load())


@dataclass(eq=False, slots=True)
class Record:
    """An object of the pickle: the name of its class, and what it was built from."""

    kind: str
    state: Any = None


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names. It is never looked up."""

    name: str


NAMES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "olmo.train.remote_filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "builtins": {"set"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""All that checkpoint metadata may name, besides torch's dtypes. Published checkpoints name a
``_StorageInfo`` of their own."""

DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}

OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)
"""Opcodes that only put plain values together; those that do more are ``_Unpickler``'s own."""


class _Dispatch(dict[int, Any]):
    def __missing__(self, opcode: int) -> NoReturn:
        raise pickle.UnpicklingError(f"checkpoint metadata may not use opcode {opcode:#x}")


class _Unpickler(pickle._Unpickler):
    """Python's own in pure Python, without the opcodes that call something."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch = _Dispatch({code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES})

    def find_class(self, module: str, name: str) -> Name | torch.dtype:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if name not in NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"checkpoint metadata may not name {module}.{name}")
        return Name(name)

    def load_newobj(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or args != ():
            raise pickle.UnpicklingError("only an empty object of a known class may be made")
        self.append(Record(name.name))

    def load_reduce(self) -> None:
        """A call: of the few functions that metadata needs, the result is known."""
        args, name = self.stack.pop(), self.stack.pop()
        if type(name) is not Name or type(args) is not tuple:
            raise pickle.UnpicklingError("only a known class may be called")
        if name.name == "Size" and len(args) == 1:
            self.append(_sizes(args[0]))
        elif name.name == "OrderedDict" and not args:
            self.append({})
        else:
            self.append(Record(name.name, args))

    def load_build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if type(record) is not Record or record.state is not None:
            raise pickle.UnpicklingError("only a new object may be given a state")
        record.state = state

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or any(type(k) not in (str, Record) for k in items[::2]):
            raise pickle.UnpicklingError("keys may only be texts or known objects, of a dict")
        target.update(zip(items[::2], items[1::2], strict=True))

    def load_empty_set(self) -> None:
        self.append([])

    dispatch |= {
        pickle.NEWOBJ[0]: load_newobj,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.EMPTY_SET[0]: load_empty_set,
        pickle.ADDITEMS[0]: pickle._Unpickler.dispatch[pickle.APPENDS[0]],
    }


def _entries(loaded: object) -> dict[str, Entry]:
    names = ("state_dict_metadata", "storage_data", "planner_data", "storage_meta", "version")
    declared, stored, *_ = _fields(loaded, "Metadata", names, n_needed=2)
    places: dict[tuple[str, Shape | None], Record] = {}
    for index, info in _dict(stored).items():
        name, offset, _ = _fields(index, "MetadataIndex", ("fqn", "offset", "index"), n_needed=1)
        place = (_text(name), None if offset is None else _sizes(offset))
        if place in places:
            raise pickle.UnpicklingError(f"{name!r} is stored twice")
        places[place] = info
    entries = {_text(name): _entry(name, item, places) for name, item in _dict(declared).items()}
    if places:
        raise pickle.UnpicklingError(f"{next(iter(places))[0]!r} is stored but not declared")
    return entries


def _entry(name: str, item: Any, places: dict[tuple[str, Shape | None], Record]) -> Entry:
    if type(item) is Record and item.kind == "BytesStorageMetadata":
        blocks: list[tuple[Shape | None, Shape]] = [(None, ())]
        shape: Shape = ()
        dtype = None
    else:
        fields = ("properties", "size", "chunks")
        properties, size, chunks = _fields(item, "TensorStorageMetadata", fields)
        shape, dtype = _sizes(size), _dtype(properties)
        blocks = [
            (_sizes(offsets), _sizes(sizes))
            for offsets, sizes in (
                _fields(chunk, "ChunkStorageMetadata", ("offsets", "sizes"))
                for chunk in _list(chunks)
            )
        ]
        if not tiles(shape, [(offsets or (), sizes) for offsets, sizes in blocks]):
            raise pickle.UnpicklingError(
                f"the chunks of {name!r} do not tile its shape {shape}: every element "
                "must be stored once"
            )
    found = []
    for offsets, sizes in blocks:
        info = places.pop((name, offsets), None)
        if info is None:
            raise pickle.UnpicklingError(f"no file is listed for a chunk of {name!r}")
        found.append(_chunk(name, offsets or (), sizes, info, dtype))
    return Entry(dtype, shape, tuple(found))


def _chunk(
    name: str, offsets: Shape, sizes: Shape, info: Record, dtype: torch.dtype | None
) -> Chunk:
    """An error for a place outside the folder, or too few bytes for the elements."""
    fields = ("relative_path", "offset", "length", "transform_descriptors")
    file, start, length, transforms = _fields(info, "_StorageInfo", fields, n_needed=3)
    if transforms:
        raise pickle.UnpicklingError(f"{name!r} is stored in a transformed form")
    if not is_plain_name(_text(file)):
        raise pickle.UnpicklingError(f"{name!r} is in {file!r}, not a file beside it")
    start, length = _sizes((start, length))
    needed = math.prod(sizes) * (0 if dtype is None else dtype.itemsize)
    if length < needed:
        raise pickle.UnpicklingError(f"{name!r}: {length} bytes are listed for a chunk of {needed}")
    return Chunk(offsets, sizes, file, start, length)


def is_plain_name(name: str) -> bool:
    """Whether ``name`` can only be a file in the folder of the file that names it."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


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
        if not spans or spans[0][0] != 0 or spans[-1][1] != size:
            return False
        if any(a[1] != b[0] for a, b in pairwise(spans)):
            return False
        n_cells *= len(spans)
    return n_cells == len(full) == len(set(full))


def _fields(
    item: object, kind: str, names: tuple[str, ...], n_needed: int | None = None
) -> list[Any]:
    """Values of the ``names`` of a record of ``kind``; only the first ``n_needed`` (default all)
    must be there, and nothing else may be."""
    if type(item) is not Record or item.kind != kind or type(item.state) is not dict:
        raise pickle.UnpicklingError(f"not checkpoint metadata: no {kind}")
    state = item.state
    if not set(names[:n_needed]) <= state.keys() <= set(names):
        raise pickle.UnpicklingError(f"not checkpoint metadata: {kind} with other fields")
    return [state.get(name) for name in names]


def _dtype(properties: object) -> torch.dtype:
    """Of a ``TensorProperties``, whose state is (type, layout, ...)."""
    if type(properties) is Record and properties.kind == "TensorProperties":
        state = properties.state
        if type(state) is tuple and state and type(state[0]) is torch.dtype:
            return state[0]
    raise pickle.UnpicklingError("not checkpoint metadata: no type of a tensor")


def _sizes(value: object) -> Shape:
    if type(value) in (tuple, list) and len(value) <= MAX_DIMS:  # type: ignore[arg-type]
        items = tuple(value)  # type: ignore[arg-type, var-annotated]
        if all(type(n) is int and 0 <= n <= MAX_SIZE for n in items):
            return items
    raise pickle.UnpicklingError("not checkpoint metadata: sizes that no tensor or file has")


def _text(value: object) -> str:
    if type(value) is str:
        return value
    raise pickle.UnpicklingError("not checkpoint metadata: no text")


def _dict(value: object) -> dict[Any, Any]:
    if type(value) is dict:
        return value
    raise pickle.UnpicklingError("not checkpoint metadata: no dict")


def _list(value: object) -> list[Any]:
    if type(value) is list:
        return value
    raise pickle.UnpicklingError("not checkpoint metadata: no list")
