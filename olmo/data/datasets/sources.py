"""Where a data set comes from: what ``scripts/download_datasets.py`` fetches or prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFiles:
    """Files of a data set repository on the Hugging Face hub.

    ``patterns`` (globs) select them, ``into`` is the folder they go to, relative to the home of
    the data set, with their names in the repository below it. With ``table`` they are parquet
    files that become one memory-mapped Arrow folder (the layout of ``save_to_disk``), a folder
    ``split`` for each entry of ``table``: a pair of split and glob. ``unpack`` unpacks archives.
    """

    repo: str
    into: str
    patterns: tuple[str, ...] = ("*",)
    table: tuple[tuple[str, str], ...] = ()
    unpack: bool = False
    gated: bool = False


@dataclass(frozen=True)
class WebFile:
    """A file over https. ``into`` is its path, relative to the home of the data set, or the
    folder that an archive is unpacked to. ``sha256`` is None where it is not known."""

    url: str
    into: str
    unpack: bool = False
    sha256: str | None = None


@dataclass(frozen=True)
class LinkedImages:
    """Images whose addresses (one, or a list) stand in column ``column`` of the Arrow folder
    ``table``; they go to ``into``, each named by the SHA-256 of its address."""

    table: str
    into: str
    column: str = "image_url"


@dataclass(frozen=True)
class FrameClips:
    """Clips that are put together from folders of frames, once these are on disk."""

    what: str


@dataclass(frozen=True)
class Manual:
    """A step for a person: a licence to accept, a form, a crawler. ``url`` is where it starts."""

    step: str
    url: str = ""


Source = HubFiles | WebFile | LinkedImages | FrameClips | Manual
