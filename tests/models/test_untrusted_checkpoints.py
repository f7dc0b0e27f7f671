"""Checkpoints made to do harm: nothing of them runs, nothing leads out of the folder, and every
element that is loaded is one that a file holds."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
)

from olmo.models.dcp_files import CheckpointReader
from olmo.models.dcp_metadata import read_entries, tiles
from olmo.models.loading import CheckpointError, load_model
from tests.models.conftest import build
from tests.models.test_weight_forms import DCP, NORM, write_config

KEY = f"model.{NORM}"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sharded checkpoint, with a setting of an optimizer beside the model."""
    folder = write_config(tmp_path / "step3")
    state = {"model": build().state_dict(), "optim": {"lr": 0.1, "step": torch.ones(())}}
    dcp.save(state, checkpoint_id=folder / DCP, no_dist=True)
    load_model(folder)
    return folder


def change(run: Path, edit: Callable[[Metadata], None]) -> None:
    file = run / DCP / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    edit(metadata)
    file.write_bytes(pickle.dumps(metadata))


def info(metadata: Metadata, key: str = KEY) -> _StorageInfo:
    return metadata.storage_data[index_of(metadata, key)]


def index_of(metadata: Metadata, key: str = KEY) -> MetadataIndex:
    return next(i for i in metadata.storage_data if i.fqn == key)


def store(run: Path, data: bytes, keep_declared: bool = True) -> Callable[[Metadata], None]:
    """Edit: the final norm is what ``data``, a new shard, holds."""
    (run / DCP / "x.distcp").write_bytes(data)

    def edit(metadata: Metadata) -> None:
        index = index_of(metadata)
        metadata.storage_data[index] = _StorageInfo("x.distcp", 0, len(data))
        if not keep_declared:
            del metadata.storage_data[index]
            metadata.state_dict_metadata[KEY] = BytesStorageMetadata()
            metadata.storage_data[MetadataIndex(KEY)] = _StorageInfo("x.distcp", 0, len(data))

    return edit


@pytest.mark.parametrize("keep_declared", [True, False])
def test_object_in_place_of_a_tensor(run: Path, tmp_path: Path, keep_declared: bool) -> None:
    marker = tmp_path / "ran"
    change(run, store(run, saved(Payload(marker)), keep_declared))
    with pytest.raises(CheckpointError, match=NORM) as error:
        load_model(run)
    assert not marker.exists() and "weights_only" not in str(error.value)
    assert keep_declared is ("Trying to load unsupported GLOBAL" in str(error.value))


METADATA = b"ctorch.distributed.checkpoint.metadata\n"
ENUM = METADATA + b"_MEM_FORMAT_ENCODING\n"
NEW = METADATA + b"Metadata\n)\x81"


@pytest.mark.parametrize(
    "data",
    {
        "bases of a class": ENUM + b"N}X\x09\0\0\0__bases__" + ENUM + ENUM + b"\x86s\x86b.",
        "class of an object": NEW + b"}X\x09\0\0\0__class__" + ENUM + b"sb.",
        "slots of an object": NEW + b"N}X\x04\0\0\0kind" + ENUM + b"s\x86b.",
        "two states": NEW + b"}b}b.",
        "call of an object": NEW + b")R.",
        "call of a call": ENUM + b")R)R.",
        "new of an object": NEW + b")\x81.",
        "new with arguments": METADATA + b"Metadata\nK\x01\x85\x81.",
        "keywords": METADATA + b"Metadata\n)}\x92.",
        "inst": b"(itorch.distributed.checkpoint.metadata\nMetadata\n.",
        "obj": b"(" + METADATA + b"Metadata\no.",
        "extension": b"\x82\x01.",
        "persistent id": b"Pa\n.",
        "binary persistent id": b"NQ.",
        "items of an object": NEW + b"(K\x01K\x02u.",
        "items of a type": METADATA + b"Metadata\nX\x01\0\0\0aK\x02s.",
        "appended to a dict": b"}K\x01a.",
        "tuple as key": b"}" + b")" + b"\x85" * 300_000 + b"K\x01s.",
        "large memo": b"Nr\xff\xff\xff\x7f.",
        "large text": b"X\xff\xff\xff\x7fa.",
        "nested": b"]" * 100_000 + b"a" * 99_999 + b".",
        "get that was not put": b"h\x07.",
        "no stop": b"N",
        "dotted": b"\x8c\x05torch\x8c\x09os.system\x93.",
        "size of texts": b"ctorch\nSize\nX\x01\0\0\0a\x85\x85R.",
        "large size": b"ctorch\nSize\n\x8a\x09" + struct.pack("<q", -1) + b"\x00\x85\x85R.",
    }.items(),
    ids=lambda item: item[0].replace(" ", "_"),
)
def test_pickle_tricks(tmp_path: Path, data: tuple[str, bytes]) -> None:
    """Only plain values can be put together; and it costs no more than the file is large."""
    (tmp_path / ".metadata").write_bytes(data[1])
    with pytest.raises(CheckpointError, match="not readable"):
        read_entries(tmp_path)
    assert torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING.__bases__ != (object,)


def test_a_class_is_never_looked_up(tmp_path: Path) -> None:
    """Whatever the file describes stays a record of its own kind."""
    (tmp_path / ".metadata").write_bytes(NEW + b"}b.")
    with pytest.raises(CheckpointError, match="KeyError: 'storage_data'"):
        read_entries(tmp_path)


def with_chunks(*chunks: tuple[int, int]) -> Callable[[Metadata], None]:
    """Edit: the final norm, 24 numbers, is in these (offset, size)."""

    def edit(metadata: Metadata) -> None:
        place = metadata.storage_data.pop(index_of(metadata))
        metadata.state_dict_metadata[KEY].chunks = [
            ChunkStorageMetadata(torch.Size([o]), torch.Size([s])) for o, s in chunks
        ]
        for o, _ in chunks:
            metadata.storage_data[MetadataIndex(KEY, [o])] = place

    return edit


@pytest.mark.parametrize(
    "chunks", [(), ((0, 23),), ((1, 23),), ((0, 12), (13, 11)), ((0, 12), (11, 13)), ((0, 25),)]
)
def test_chunks_must_tile(run: Path, chunks: tuple[tuple[int, int], ...]) -> None:
    change(run, with_chunks(*chunks))
    with pytest.raises(CheckpointError, match=rf"{KEY}' do not tile its shape \(24,\)"):
        load_model(run)
    with pytest.raises(CheckpointError, match="do not tile"):
        CheckpointReader(run / DCP)


@pytest.mark.parametrize(
    ("shape", "blocks", "want"),
    [
        ((), [((), ())], True),
        ((), [], False),
        ((0, 3), [], True),
        ((4, 4), [((0, 0), (2, 4)), ((2, 0), (2, 4))], True),
        ((4, 4), [((i, j), (2, 2)) for i in (0, 2) for j in (0, 2)], True),
        ((4, 4), [((0, 0), (2, 2)), ((2, 2), (2, 2))], False),
        ((4, 4), [((0, 0), (2, 4)), ((0, 0), (2, 4))], False),
        ((4, 4), [((0, 0), (4, 4)), ((4, 0), (0, 4))], True),
        ((4,), [((0,), (4,)), ((0,), (4,))], False),
        ((4, 4), [((0,), (4,))], False),
    ],
)
def test_tiles(shape: Any, blocks: Any, want: bool) -> None:
    """Ranks without rows write empty blocks."""
    assert tiles(shape, blocks) is want


def set_field(**values: Any) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        vars(info(metadata)).update(values)

    return edit


def grown(metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata[KEY]
    entry.size = torch.Size([10**14])
    entry.chunks[0].sizes = torch.Size([10**14])


def of_integers(metadata: Metadata) -> None:
    metadata.state_dict_metadata[KEY].properties.dtype = torch.int32


def unlisted(metadata: Metadata) -> None:
    del metadata.storage_data[index_of(metadata)]


def undeclared(metadata: Metadata) -> None:
    del metadata.state_dict_metadata[KEY]


def shared_bytes(metadata: Metadata) -> None:
    metadata.storage_data[index_of(metadata)] = info(metadata, "model.transformer.wte.embedding")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_field(relative_path="../x.distcp"), "'../x.distcp', not a file beside it"),
        (set_field(relative_path="/etc/passwd"), "'/etc/passwd', not a file beside it"),
        (set_field(relative_path=".."), "not a file beside it"),
        (set_field(relative_path="x" * 300), "x{300}', not a file beside it"),
        (set_field(relative_path=7), "no text"),
        (set_field(relative_path="none.distcp"), r"none\.distcp: missing"),
        (set_field(offset=-1), "sizes that no"),
        (set_field(offset=10**12), "cut off"),
        (set_field(length=-5), "sizes that no"),
        (set_field(length=5), "5 bytes are listed for a chunk of 96"),
        (set_field(length=10**12), "cut off"),
        (set_field(transform_descriptors=["zstd"]), "in a transformed form"),
        (grown, "bytes are listed for a chunk of 400000000000000"),
        (of_integers, "int32, weights are one of"),
        (unlisted, "no file is listed"),
        (undeclared, "stored but not declared"),
        (shared_bytes, "share bytes"),
    ],
)
def test_metadata_that_lies(run: Path, edit: Callable[[Metadata], None], message: str) -> None:
    change(run, edit)
    with pytest.raises(CheckpointError, match=message):
        load_model(run)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(24).double(), "is torch.float64 of shape"),
        (torch.ones(23), r"of shape \(23,\), .metadata lists torch.float32 of \(24,\)"),
        (torch.ones(1).expand(24), r"has 4 of 96 bytes"),
        (torch.ones(24, device="meta"), "not a plain tensor"),
        (torch.ones(24).to_sparse(), "not a plain tensor"),
        ({"a": torch.ones(24)}, "is a dict, not a tensor"),
        (torch.full((24,), float("nan")), "NaN or infinite"),
    ],
)
def test_shard_that_holds_something_else(run: Path, value: Any, message: str) -> None:
    change(run, store(run, saved(value).ljust(200, b"\0")))
    with pytest.raises(CheckpointError, match=rf"x\.distcp: '{KEY}'.*{message}"):
        load_model(run)


def test_whole_checkpoints_are_told_by_their_files(run: Path) -> None:
    """Entries beside the model's count as well."""
    entries = CheckpointReader(run / DCP).entries
    assert entries["optim.lr"].dtype is None and entries["optim.step"].shape == ()
    change(run, lambda metadata: vars(info(metadata, "optim.step")).update(relative_path="gone"))
    with pytest.raises(CheckpointError, match="gone: missing"):
        CheckpointReader(run / DCP)
