"""Fetch data sets into MOLMO_DATA_DIR, by name or by group.

    python scripts/download_datasets.py short_video            # a group
    python scripts/download_datasets.py tgif mvbench           # data sets
    python scripts/download_datasets.py --mixture molmo2       # all that a mixture names
    python scripts/download_datasets.py --list                 # what there is, and from where

Run it again to resume: finished files are kept, partial ones are continued. Steps that need a
person (a licence, a form, a crawler) are printed at the end. Gated sets of the hub need
HF_ACCESS_TOKEN. Addresses of tables and redirects into private networks are refused, unless
MOLMO_ALLOW_PRIVATE_ADDRESSES=1. Disk space is not checked; scripts/data_status.py shows what is
there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tqdm import tqdm

from olmo.command_line import Parser, exit_code, number, path, positive
from olmo.data.arrow import ArrowRows, write_splits, write_table
from olmo.data.datasets.catalogue import DatasetRow, dataset_rows, select_rows
from olmo.data.datasets.sources import FrameClips, HubFiles, LinkedImages, Manual, WebFile
from olmo.data.datasets.tables import address_name
from olmo.data.mixture import MixtureConfig
from olmo.data.registry import MissingDataError
from olmo.download.addresses import DownloadError, without_secrets
from olmo.download.archives import MARKERS, archive_of, marker, unpack
from olmo.download.web import DEFAULT_LIMITS, WebLimits, download, fetch_bytes
from olmo.files import write_bytes
from olmo.outside import OutsideError, foreign

CHECKSUMS = "image_sha256"
"""Column of PixMo tables with the SHA-256 of the image at the address."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass
class Job:
    """Fetching for one data set."""

    row: DatasetRow
    workers: int = 8
    limits: WebLimits = DEFAULT_LIMITS
    notes: list[str] = field(default_factory=list)
    """Steps for a person, and what was left out."""

    @property
    def home(self) -> Path:
        return self.row.folder()


# --- sources -----------------------------------------------------------------------------------


def fetch_web(job: Job, source: WebFile) -> None:
    """A file over https, unpacked if it is an archive."""
    name = source.web.rpartition("/")[2]
    folder = job.home / source.into
    target = folder / name if source.unpack else folder
    if not (source.unpack and marker(target).exists()):
        download(source.web, target, source.sha256, job.limits)
    if source.unpack:
        unpack(target, folder, job.limits.max_unpacked)


def fetch_hub(job: Job, source: HubFiles) -> None:
    """Files of a hub repository; tables of it become Arrow folders."""
    from huggingface_hub import snapshot_download

    folder = job.home / source.into
    if source.table and (folder / "dataset_dict.json").exists():
        return
    target = folder / ".parquet" if source.table else folder
    patterns = list(source.table.values()) or source.files
    unpacked = [archive_of(m).relative_to(target).as_posix() for m in target.rglob(MARKERS)]
    gated = " (gated: accept its terms on the hub, set HF_ACCESS_TOKEN)" if source.gated else ""
    with foreign(lambda r: DownloadError(f"{source.hub}{gated}: {without_secrets(r)}")):
        snapshot_download(
            source.hub,
            repo_type="dataset",
            allow_patterns=patterns,
            ignore_patterns=unpacked,
            local_dir=target,
            token=os.environ.get("HF_ACCESS_TOKEN"),
            max_workers=job.workers,
        )
    if source.table:
        convert_tables(job, source, target, folder)
    for archive in sorted(target.rglob("*")) if source.unpack else ():
        if archive.name.endswith(ARCHIVES) and archive.is_file():
            unpack(archive, archive.parent, job.limits.max_unpacked)


def convert_tables(job: Job, source: HubFiles, parquet: Path, folder: Path) -> None:
    """Parquet files to one Arrow folder per split."""
    files = sorted(p.relative_to(parquet).as_posix() for p in parquet.rglob("*.parquet"))
    for split, glob in source.table.items():
        parts = [parquet / f for f in files if fnmatch(f, glob)]
        if not parts:
            raise DownloadError(f"{source.hub}: no file {glob} among {files or 'none'}")
        rows = write_table(parts, folder / split, job.limits.max_unpacked)
        print(f"  {folder / split}: {rows} rows")
    write_splits(folder, list(source.table))
    shutil.rmtree(parquet)


def fetch_images(job: Job, source: LinkedImages) -> None:
    """Images by their addresses; some are gone for good, which is noted and no error."""
    table, folder = job.home / source.images_of, job.home / source.into
    sums: dict[str, str | None] = {}
    for state in sorted(table.glob("*/state.json")):
        rows = ArrowRows.open(table, state.parent.name)
        cells = rows.column(source.column)
        known = rows.column(CHECKSUMS) if rows.has_column(CHECKSUMS) else [None] * len(cells)
        for cell, digest in zip(cells, known, strict=True):
            addresses = cell if isinstance(cell, list) else [cell]
            links = [a for a in addresses or () if isinstance(a, str) and a]
            sums |= {a: digest if a is cell else None for a in links}
    folder.mkdir(parents=True, exist_ok=True)
    there = set(os.listdir(folder))
    wanted = [a for a in sums if address_name(a) not in there]
    with ThreadPoolExecutor(job.workers) as pool:
        jobs = pool.map(
            lambda a: fetch_image(a, folder / address_name(a), sums[a], job.limits.max_image),
            wanted,
        )
        lost = [reason for reason in tqdm(jobs, total=len(wanted), unit="image") if reason]
    if lost:
        job.notes.append(f"{len(lost)} of {len(sums)} images not fetched, first: {lost[0]}")


def fetch_image(
    address: str,
    target: Path,
    sha256: str | None = None,
    max_bytes: int = DEFAULT_LIMITS.max_image,
) -> str:
    """Why the image could not be fetched, or nothing. An image whose checksum is known must have
    it: what is at an address changes. What is kept can be read."""
    from olmo.preprocessing.images import load_image

    try:
        with foreign(DownloadError):
            data = fetch_bytes(address, max_bytes)
            found = hashlib.sha256(data).hexdigest()
            if sha256 not in (None, "", found):
                raise DownloadError(f"SHA-256 is {found}, expected {sha256}")
            load_image(data)
    except OutsideError as e:
        return without_secrets(f"{address}: {e}")
    write_bytes(target, data)
    return ""


def make_frame_clips(job: Job, source: FrameClips) -> None:
    """Clips of all annotated spans whose frames are there. TVQA lists those without frames, once,
    and leaves them out from then on."""
    from olmo.data.datasets.disk import Disk
    from olmo.data.datasets.frame_clips import is_frame_clip, write_frame_clip
    from olmo.data.datasets.tvqa import MISSING, list_missing_clips

    made = absent = 0
    broken: list[str] = []
    for split in job.row.splits:
        try:
            _, records = job.row.records(split)
        except MissingDataError:
            continue
        clips = {p for i in range(len(records)) for p in records.media(i) if is_frame_clip(p)}
        for clip in tqdm(sorted(clips), desc=f"{job.row.name} {split}", unit="clip"):
            try:
                with foreign(DownloadError):
                    made += write_frame_clip(job.home / clip)
                    absent += not (job.home / clip).exists()
            except OutsideError as e:
                broken.append(f"{clip}: {e}")
    if broken:
        job.notes.append(f"{len(broken)} clips could not be made, first: {broken[0]}")
    listed = list_missing_clips(Disk(job.home)) if source.frame_clips == "tvqa" else 0
    if absent:
        again = f"delete {MISSING}, which lists them, and " if listed else ""
        note = f"{absent} clips have no frames yet: {again}run this again when they are there"
        job.notes.append(note)
    print(f"  {made} clips made")


def note_step(job: Job, source: Manual) -> None:
    """A step for a person."""
    job.notes.append(source.by_hand + (f" ({source.url})" if source.url else ""))


FETCHERS: dict[type, Callable[[Job, Any], None]] = {
    WebFile: fetch_web,
    HubFiles: fetch_hub,
    LinkedImages: fetch_images,
    FrameClips: make_frame_clips,
    Manual: note_step,
}


# --- command line ------------------------------------------------------------------------------


def fetch(rows: list[DatasetRow], workers: int, limits: WebLimits = DEFAULT_LIMITS) -> list[str]:
    """Fetch all sources of all rows; a failure does not stop the others. Returns the failures."""
    failures: list[str] = []
    notes: list[str] = []
    failed: dict[tuple[str, str], OutsideError] = {}
    for row in rows:
        print(f"{row.name} -> {row.folder()}")
        job = Job(row, workers, limits)
        for source in row.origins:
            key = (row.home, repr(source))
            try:
                if key in failed:  # several data sets share it
                    raise failed[key]
                with foreign(DownloadError):
                    FETCHERS[type(source)](job, source)
            except OutsideError as e:
                failed[key] = e
                failures.append(f"{row.name}: {e}")
                print(f"  failed: {e}")
        notes += [f"{row.name}: {note}" for note in job.notes]
    for title, lines in (("By hand", notes), ("Failed", failures)):
        if lines:
            print(f"\n{title}:\n" + "\n".join(f"  {line}" for line in lines))
    return failures


def list_rows() -> None:
    """Every data set with its groups and sources."""
    for row in dataset_rows().values():
        places = [s.get("hub") or s.get("web") or s.get("url") for s in row.sources]
        print(f"{row.name:48s}{','.join(row.groups):28s}{' '.join(filter(None, places))}")


@exit_code()
def main(args: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", help="data sets or groups")
    parser.add_argument("--mixture", help="fetch what this mixture names (those with a reader)")
    parser.add_argument("--root", type=path, help="data folder (default: MOLMO_DATA_DIR)")
    parser.add_argument("--workers", type=positive, default=8, help="parallel requests (8)")
    size = number(float, 0)
    parser.add_argument("--max_download_gb", type=size, default=500, help="of one file (500)")
    parser.add_argument("--max_unpacked_gb", type=size, default=1000, help="of one archive (1000)")
    parser.add_argument("--max_image_mb", type=size, default=64, help="of one linked image (64)")
    parser.add_argument("--list", action="store_true", help="list data sets, and stop")
    options = parser.parse_args(args)
    if options.root:
        os.environ["MOLMO_DATA_DIR"] = str(options.root.absolute())
    if options.list:
        list_rows()
        return 0
    try:
        names = list(options.names)
        if options.mixture:
            mixture = MixtureConfig.load(options.mixture)
            names += [
                d.name for g in mixture.groups for d in g.datasets if d.name in dataset_rows()
            ]
        rows = select_rows(names)
    except ValueError as e:
        parser.error(str(e))
    if not rows:
        parser.error("name a data set, a group or a --mixture (--list shows them)")
    limits = WebLimits(
        max_file=int(options.max_download_gb * (1 << 30)),
        max_unpacked=int(options.max_unpacked_gb * (1 << 30)),
        max_image=int(options.max_image_mb * (1 << 20)),
    )
    return 1 if fetch(rows, options.workers, limits) else 0


if __name__ == "__main__":
    sys.exit(main())
