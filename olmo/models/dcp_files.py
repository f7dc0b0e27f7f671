"""Read ``torch.distributed.checkpoint`` folders without trusting them.

The ``.metadata`` file is a pickle; the unpickler here allows nothing but checkpoint metadata.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta


class CheckpointReader(FileSystemReader):
    """torch's reader with the restricted unpickler.

    Upstream's ``.metadata`` names its own ``_StorageInfo``; that is mapped to torch's. The file is
    read once, as a reader may be used for one tensor after the other.
    """

    _metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = self._metadata
        if metadata is None:
            with (Path(self.path) / ".metadata").open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError("not checkpoint metadata")
            self._metadata = metadata
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


METADATA_NAMES = {
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
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "builtins": {"set"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""All that checkpoint metadata may name, besides torch's dtypes. Whole names only: a dotted one
would reach what a module imports, such as ``os.system``."""


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("olmo.train.remote_filesystem", "_StorageInfo"):
            module = "torch.distributed.checkpoint.filesystem"
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name not in METADATA_NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"checkpoint metadata may not name {module}.{name}")
        return super().find_class(module, name)
