"""Where a data set comes from: what ``scripts/download_datasets.py`` fetches or prints. The first
key of a source in the catalogue tells its kind."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, get_args

from olmo.config import Config, ConfigError, nearest


@dataclass
class HubFiles(Config):
    """Files of the data set repository ``hub`` on the Hugging Face hub.

    ``files`` (globs) select them, ``into`` is the folder they go to, relative to the home of
    the data set, with their names in the repository below it. With ``table`` they are parquet
    files that become one memory-mapped Arrow folder (the layout of ``save_to_disk``), a folder
    ``split`` for each entry of ``table``: split -> glob. ``unpack`` unpacks archives.
    """

    hub: str
    into: str
    files: list[str] = field(default_factory=lambda: ["*"])
    table: dict[str, str] = field(default_factory=dict)
    unpack: bool = False
    gated: bool = False


@dataclass
class WebFile(Config):
    """The file ``web`` over https. ``into`` is its path, relative to the home of the data set, or
    the folder that an archive is unpacked to. ``sha256`` is None where it is not known."""

    web: str
    into: str
    unpack: bool = False
    sha256: str | None = None


@dataclass
class LinkedImages(Config):
    """Images whose addresses (one, or a list) stand in column ``column`` of the Arrow folder
    ``images_of``; they go to ``into``, each named by the SHA-256 of its address."""

    images_of: str
    into: str
    column: str = "image_url"


@dataclass
class FrameClips(Config):
    """Clips that are put together from folders of frames, once these are on disk."""

    frame_clips: str


@dataclass
class Manual(Config):
    """A step for a person: a licence to accept, a form, a crawler. ``url`` is where it starts."""

    by_hand: str
    url: str = ""


Source = HubFiles | WebFile | LinkedImages | FrameClips | Manual
KINDS: dict[str, type[Source]] = {fields(kind)[0].name: kind for kind in get_args(Source)}


def source_of(data: dict[str, Any], where: str) -> Source:
    """The source that a mapping of the catalogue describes. ``ConfigError`` for an unknown one."""
    kind = next(iter(data), "")
    if kind not in KINDS:
        raise ConfigError(f"{where}: unknown kind {kind!r}; {nearest(kind, KINDS, listed=True)}")
    return KINDS[kind].from_dict(data, where)
