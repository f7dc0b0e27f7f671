"""Find and read checkpoints.

RUN/step{N}/config.yaml + model_and_optim/          sharded (torch.distributed.checkpoint)
RUN/step{N}-unsharded/config.yaml + model.safetensors (or model.pt)
any folder of one of these two forms
"""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)

from olmo.config import ConfigError, merge, read_yaml
from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config
from olmo.models.registry import model_config_from_dict
from olmo.models.temporal_video_olmo.temporal_video_olmo import sync_topk
from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.token_scorer import TemporalTokenScorer

log = logging.getLogger(__name__)

STEP_FOLDER = re.compile(r"step(\d+)(-unsharded)?")
SHARDED = "model_and_optim"
WEIGHT_FILES = ("model.safetensors", "model.pt")
MAY_BE_MISSING = ("vision_backbone.image_vit.transformer.temporal_token_scorer.",)
"""Prefixes of parameters that a dense checkpoint lacks; they are initialised instead."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file and the key."""


UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError),
)
"""What the readers raise for a damaged file, or one that holds something else."""


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` itself holds weights."""
    return (
        any((path / name).is_file() for name in WEIGHT_FILES)
        or (path / SHARDED / ".metadata").is_file()
    )


def select_checkpoint(path: str | Path) -> Path:
    """``path`` if it is a checkpoint, else its ``step{N}`` folder with the highest N.

    A sharded folder wins over an unsharded one of the same step. ``FileNotFoundError`` if there
    is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint folder")
    if is_checkpoint(path):
        return path
    found = []
    for child in path.iterdir() if path.is_dir() else ():
        match = STEP_FOLDER.fullmatch(child.name)
        if match and is_checkpoint(child):
            found.append((int(match[1]), not match[2], child))
    if not found:
        raise FileNotFoundError(
            f"{path}: neither a checkpoint (model_and_optim/, model.safetensors or model.pt) "
            "nor a run folder with step<N> checkpoints"
        )
    return max(found)[2]


def load_model_config(path: Path, overrides: dict[str, Any] | None = None) -> Molmo2Config:
    """Model config of a checkpoint folder, with nested ``overrides`` laid on top.

    Overrides may use the flat spellings of ``mm_preprocessor``; one of the two ``topk`` fields
    is enough.
    """
    file = path / "config.yaml"
    data = read_yaml(file)
    if not isinstance(data.get("model"), dict):
        raise ConfigError(f"{file}: no 'model' section")
    return merged_model_config(data["model"], overrides or {})


def merged_model_config(data: dict[str, Any], overrides: dict[str, Any]) -> Molmo2Config:
    """Lay ``overrides`` over the model section ``data`` and build the config."""
    from olmo.preprocessing.multimodal import Molmo2PreprocessorConfig

    name = overrides.get("model_name", data.get("model_name"))
    over = sync_topk(overrides) if name == "temporal_video_olmo" else dict(overrides)
    out = dict(data)
    for part in (out, over):
        if isinstance(part.get("mm_preprocessor"), dict):
            part["mm_preprocessor"] = Molmo2PreprocessorConfig.upgrade(
                dict(part["mm_preprocessor"])
            )
    return model_config_from_dict(merge(out, over))


def load_model(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Molmo2, Molmo2Config]:
    """Build the model of a checkpoint and load its weights, in evaluation mode.

    ``dtype`` None keeps float32 parameters.
    """
    folder = select_checkpoint(path)
    config = load_model_config(folder, overrides)
    model = config.build("meta").to_empty(device=device)
    if dtype is not None:
        model = model.to(dtype)
    load_weights(model, folder)
    return model.eval(), config


def load_weights(model: Molmo2, folder: Path) -> list[str]:
    """Copy a checkpoint's weights into ``model`` in place; sharded parameters are welcome.

    Extra tensors in the checkpoint are ignored. Parameters under ``MAY_BE_MISSING`` that the
    checkpoint lacks are initialised, said in the log and returned; any other missing or
    misshapen one is a ``CheckpointError``.
    """
    sharded = (folder / SHARDED / ".metadata").is_file()
    reader: _DcpSource | _FileSource = _DcpSource(folder) if sharded else _FileSource(folder)
    params = model.state_dict()
    missing = [k for k in params if k not in reader.shapes]
    absent = [k for k in missing if k.startswith(MAY_BE_MISSING)]
    if len(absent) < sum(k.startswith(MAY_BE_MISSING) for k in params):
        absent = []  # half a scorer is damage, not a dense checkpoint
    fatal = [k for k in missing if k not in absent]
    if fatal:
        raise CheckpointError(f"{reader.where}: {len(fatal)} missing keys, first {fatal[0]!r}")
    for key, value in params.items():
        if key in reader.shapes and tuple(value.shape) != reader.shapes[key]:
            raise CheckpointError(
                f"{reader.where}: {key!r} has shape {reader.shapes[key]}, "
                f"the model expects {tuple(value.shape)}"
            )
    reader.copy_into({k: v for k, v in params.items() if k in reader.shapes})
    if missing:
        vit = model.config.vision_backbone.vit
        assert isinstance(vit, TemporalVitConfig)
        _initialise_scorer(params, vit)
        log.warning("%s has no token scorer: initialised %d tensors", folder, len(missing))
    return missing


@torch.no_grad()
def _initialise_scorer(params: dict[str, Tensor], vit: TemporalVitConfig, seed: int = 0) -> None:
    """The same fresh scorer on any number of ranks: drawn whole, then copied into shards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = TemporalTokenScorer(vit, "cpu")
        scorer.reset_parameters()
    for key, value in scorer.state_dict().items():
        _assign(params[MAY_BE_MISSING[0] + key], value)


class _FileSource:
    """``model.safetensors`` or ``model.pt`` (read with ``weights_only``)."""

    def __init__(self, folder: Path):
        self.where = next(f for f in (folder / n for n in WEIGHT_FILES) if f.is_file())
        self.tensors: dict[str, Tensor] | None = None
        try:
            if self.where.suffix == ".safetensors":
                with safe_open(str(self.where), "pt") as file:
                    self.shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
            else:
                self.tensors = torch.load(self.where, weights_only=True, mmap=True)
                self.shapes = {k: tuple(v.shape) for k, v in self.tensors.items()}
        except UNREADABLE as e:
            raise CheckpointError(f"{self.where}: not a readable weight file: {e}") from e

    @torch.no_grad()
    def copy_into(self, params: dict[str, Tensor]) -> None:
        """One tensor at a time, so that no second copy of the model is held."""
        if self.tensors is not None:
            for key, param in params.items():
                _assign(param, self.tensors[key])
            return
        with safe_open(str(self.where), "pt") as file:
            for key, param in params.items():
                _assign(param, file.get_tensor(key))


def _assign(param: Tensor, value: Tensor) -> None:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(param, DTensor):
        value = value.to(param.device, param.dtype)
        value = distribute_tensor(value, param.device_mesh, param.placements)
    param.copy_(value)


class _DcpSource:
    """A ``torch.distributed.checkpoint`` folder; keys there carry the prefix ``model.``."""

    def __init__(self, folder: Path):
        self.where = folder / SHARDED
        self.reader = CheckpointReader(self.where)
        try:
            entries = self.reader.read_metadata().state_dict_metadata
        except UNREADABLE as e:
            raise CheckpointError(f"{self.where / '.metadata'}: not readable: {e}") from e
        self.shapes = {
            key.removeprefix("model."): tuple(entry.size)
            for key, entry in entries.items()
            if key.startswith("model.") and isinstance(entry, TensorStorageMetadata)
        }

    def copy_into(self, params: dict[str, Tensor]) -> None:
        state = {f"model.{k}": v for k, v in params.items()}
        alone = not torch.distributed.is_initialized()
        try:
            dcp.load(state, storage_reader=self.reader, no_dist=alone)
        except CheckpointException as e:  # not an Exception: it would pass every handler
            cause = next(iter(e.failures.values()))[0]
            raise CheckpointError(f"{self.where}: not readable: {cause!r}") from e


class CheckpointReader(FileSystemReader):
    """torch's reader with an unpickler that allows nothing but checkpoint metadata.

    Upstream's ``.metadata`` names its own ``_StorageInfo``; that is mapped to torch's.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("not checkpoint metadata")
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
