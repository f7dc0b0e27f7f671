"""Which run a folder holds: its start checkpoint, data, seeds and what its weights mean.

A run goes on only in a folder of its own kind. Other settings may change between two starts of a
run; those that change what is learnt are said.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from olmo.data.custom import CustomDataset
from olmo.data.mixture import CUSTOM, Mixture, mixture_file
from olmo.distributed import gather
from olmo.mappings import flat
from olmo.models.loading import SHARDED, select_checkpoint
from olmo.train.config import TrainConfig

IDENTITY = (
    *("seed", "data.seed", "data.split", "lora", "lora.*"),
    *("model.model_name", "model.llm.*", "model.bi_directional_attn"),
    "model.data_formatter.message_format",
    *(f"model.vision_backbone.{k}" for k in ("vit.image_*", "vit_layers", "video_pooling")),
    *(f"model.vision_backbone.vit.prune{k}" for k in ("", "_at", "_method")),
)
"""Keys that have one value in the whole of a run, next to start checkpoint, mixture and own data:
other weights, or weights with another meaning, or another draw."""
NO_MATTER = (
    *("data.num_workers", "data.prefetch_factor", "data.pin_memory", "data.max_skipped"),
    *("data.skip_missing", "data.mixture", "data.custom"),  # what they open is compared
    *("*.compile_vit", "*.compile_connector", "*.activation_checkpoint*", "*.sdpa_backend"),
    *("*.connector_activation_checkpointing", "*.float32_attention"),
    *("*.normalize_on_gpu", "*.vit.layout", "*.init_path", "*.tokenizer_dir", "*.decoder"),
    *("*.initializer_range", "*.new_embedding_init_range", "*.limits.*"),
)
"""Keys below ``CHANGES`` that are about speed and place, or are used up once a run has begun."""
CHANGES = (
    *("model.*", "data.*", "optimizer.*", "scheduler.*", "global_train_batch_size", "ft_*"),
    *("max_grad_norm", "softmax_auxiliary_loss*"),
)
"""Keys that change what is learnt. Those of them in neither list above may change in a run."""
MAY_CHANGE = ("*.max_sequence_length", "model.llm.*_dropout", "lora.dropout")
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
HASHED_BYTES = 1 << 30


@dataclass
class Differences:
    """Lines with the value before and now: of another run, and of this one changed."""

    identity: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    @property
    def other_stream(self) -> bool:
        """Whether the number of an example means another example now."""
        of_data = ("data.seed", "data.split", "data.shuffle", "data.mixture", "data.custom")
        return bool(self.data) or any(
            line.startswith(of_data) for line in (*self.identity, *self.settings)
        )


def identity_of(config: TrainConfig, mixture: Mixture) -> dict[str, Any]:
    """What a checkpoint keeps of the run: where it started, and each data set's size and share;
    of own data their hash as well."""
    identity: dict[str, Any] = {"data": {n: _data_set(mixture, n) for n in mixture.names}}
    if config.initial_model_checkpoint is not None:
        start = select_checkpoint(config.initial_model_checkpoint)
        identity["start"] = {"path": str(start.resolve()), "sha256": fingerprint(start)}
    return identity


def check_ranks(mixture: Mixture) -> None:
    """``ValueError`` if a rank has opened other data than rank 0, because other files are on its
    machine: the ranks would go through different streams."""
    names = mixture.names
    first, *others = gather({n: (len(mixture.datasets[n]), mixture.rates[n]) for n in names})
    for rank, found in enumerate(others, 1):
        for name in sorted({*first, *found}):
            if first.get(name) != found.get(name):
                raise ValueError(
                    f"rank {rank} has other data than rank 0, first {name!r}: examples and weight "
                    f"{found.get(name, 'none')} instead of {first.get(name, 'none')}; give every "
                    "machine the same files"
                )


def fingerprint(folder: Path) -> str:
    """Hash of the names, sizes and samples of the weight files in ``folder``, wherever it is."""
    digest = hashlib.sha256()
    files = [*folder.glob("*.safetensors"), *folder.glob("*.pt"), *folder.glob(f"{SHARDED}/*")]
    for path in sorted([*files, folder / SHARDED / ".metadata"]):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            digest.update(_samples(path))
    return digest.hexdigest()


def _samples(path: Path) -> bytes:
    """Parts of a file from its begin to its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        starts = [max(size - SAMPLE_BYTES, 0) * i // (SAMPLES - 1) for i in range(SAMPLES)]
        return b"".join(os.pread(file.fileno(), SAMPLE_BYTES, start) for start in starts)


def contents(files: Sequence[Path]) -> str:
    """Hash of files of own data: of a single one its contents, of several their names and hashes.
    Of a file beyond ``HASHED_BYTES`` its size and samples stand for the rest."""
    hashes = []
    for path in files:
        if path.stat().st_size > HASHED_BYTES:
            data = b"%d %b" % (path.stat().st_size, _samples(path))
            hashes.append(hashlib.sha256(data).hexdigest())
        else:
            with path.open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(hashes) == 1:
        return hashes[0]
    named = (f"{path.name} {digest}\n" for path, digest in zip(files, hashes, strict=True))
    return hashlib.sha256("".join(named).encode(errors="surrogateescape")).hexdigest()


def compare(
    before: TrainConfig, stored: dict[str, Any], config: TrainConfig, now: dict[str, Any]
) -> Differences:
    """A run of the config ``before`` against one of ``config``, with the identities ``stored`` and
    ``now``."""
    found = Differences()
    _compare_start(found, config, stored.get("start"), now.get("start"))
    _compare_data(found, before, config, stored.get("data", {}), now["data"])
    old, new = dict(flat(before.to_dict())), dict(flat(config.to_dict()))
    for key in dict.fromkeys((*old, *new)):
        a, b = old.get(key), new.get(key)
        if a == b or not _matches(key, (*IDENTITY, *CHANGES)) or _matches(key, NO_MATTER):
            continue
        if key.endswith(".tokenizer.identifier") and same_place(str(a), str(b)):
            continue
        if key == "lora.alpha" and _strength(before) == _strength(config):
            continue
        fixed = _matches(key, IDENTITY) and not _matches(key, MAY_CHANGE)
        (found.identity if fixed else found.settings).append(f"{key}: {a!r}, now {b!r}")
    return found


def _strength(config: TrainConfig) -> float | None:
    """Of the adapters: ``alpha`` may be given or left to the rank."""
    return None if config.lora is None else config.lora.scale


def _compare_start(
    found: Differences,
    config: TrainConfig,
    stored: dict[str, str] | None,
    now: dict[str, str] | None,
) -> None:
    """By content, wherever it lies."""
    start = config.initial_model_checkpoint
    if start is None or stored is None or now is None or stored["sha256"] == now["sha256"]:
        return
    # a run folder that has got on since: the step that it stood for may still be there
    earlier = Path(start) / Path(stored["path"]).name
    if not earlier.is_dir() or fingerprint(earlier) != stored["sha256"]:
        replaced = " (replaced by another)" if stored["path"] == now["path"] else ""
        line = f"start checkpoint: {stored['path']}, now {now['path']}{replaced}"
        found.identity.append(line)


def _compare_data(
    found: Differences,
    before: TrainConfig,
    config: TrainConfig,
    stored: dict[str, Any],
    now: dict[str, Any],
) -> None:
    """Another mixture or file is another run, unless the data are the same; the same with other
    contents is this run, changed."""
    if stored == now:
        return
    one, two = before.data, config.data
    another = []
    if not same_place(str(mixture_file(one.mixture)), str(mixture_file(two.mixture))):
        another.append(f"data.mixture: {one.mixture!r}, now {two.mixture!r}")
    a, b = one.custom, two.custom
    if not (a == b or (a is not None and b is not None and same_place(a, b))):
        another.append(f"data.custom: {a!r}, now {b!r}")
    found.identity += another
    if another:
        return
    for name in sorted({*stored, *now}):
        a, b = stored.get(name), now.get(name)
        if a == b:
            continue
        what = f"data set {name!r}"
        if name == CUSTOM and config.data.custom is not None:
            what = f"{config.data.custom} (data set {name!r})"
        found.data.append(f"{what}: {_words(a)}, now {_words(b)}")


def _words(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not in the mixture"
    text = f"{entry['examples']} examples, weight {entry['rate']:.4g}"
    text += f", settings {entry['settings']}" if "settings" in entry else ""
    return text + (f", contents {entry['sha256'][:8]}" if "sha256" in entry else "")


def _data_set(mixture: Mixture, name: str) -> dict[str, Any]:
    data = mixture.datasets[name]
    entry: dict[str, Any] = {"examples": len(data), "rate": float(mixture.rates[name])}
    if settings := mixture.settings.get(name):
        entry["settings"] = settings
    if isinstance(data, CustomDataset):
        entry["sha256"] = contents(data.files)
    return entry


def same_place(a: str, b: str) -> bool:
    """Whether two paths, typed at different times and maybe in different folders, may be one."""
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    typed, real = Path(os.path.normpath(a)).parts, Path(os.path.realpath(b)).parts
    return not os.path.isabs(a) and real[-len(typed) :] == typed


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)
