"""Which data sets are there, how large they are, and where they are looked for.

    python scripts/data_status.py                    # all
    python scripts/data_status.py short_video tgif   # some, by name or group
    python scripts/data_status.py --mixture molmo2
    python scripts/data_status.py --markdown         # the catalogue: what is read, and from where

A data set is "present", "partial" (some videos or images are absent), "missing" (annotations or
all media are absent; the first absent file is shown) or "unreadable" (another layout; the reason
is shown). Rows of annotations that are left out are counted by reason below it. Embedded sets are
rendered on first use. Hours of video come from a sample of the files and are marked "~" then.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import av

from olmo.command_line import Parser, exit_code, natural, path
from olmo.data.datasets.catalogue import (
    GROUPS,
    DatasetRow,
    alternatives,
    dataset_rows,
    function_of,
    present,
    select_rows,
)
from olmo.data.datasets.synthetic.video import TABLE, rendered
from olmo.data.mixture import CUSTOM, MixtureConfig
from olmo.data.records import DatasetFormatError
from olmo.data.registry import MissingDataError, data_root, dataset_names
from olmo.data.video_container import open_container
from olmo.data.video_source import VideoReadError
from olmo.outside import foreign
from olmo.text import markdown_table

PRESENT, PARTIAL, MISSING, UNREADABLE = "present", "partial", "missing", "unreadable"
MAX_FOLDERS = 3
OTHERS = "Variants outside the groups"


@dataclass(frozen=True)
class Status:
    """State of one split. ``hours`` is None without video; ``sampled`` says it is estimated."""

    name: str
    split: str
    state: str
    where: str
    n_there: int = 0
    n_all: int = 0
    hours: float | None = None
    sampled: bool = False
    left_out: str = ""

    def line(self) -> str:
        count = f"{self.n_there:,}" if self.n_there == self.n_all else ""
        count = count or f"{self.n_there:,}/{self.n_all:,}"
        hours = "" if self.hours is None else f"{'~' * self.sampled}{self.hours:,.1f}"
        examples = count if self.n_all else ""
        return (
            f"{self.name:48s}{self.split:12s}{self.state:12s}{examples:>16s}{hours:>10s}"
            f"  {self.where}" + (f"\n    {self.left_out}" if self.left_out else "")
        )


HEADER = (
    f"{'data set':48s}{'split':12s}{'state':12s}{'examples':>16s}{'hours':>10s}  where it looks"
)


def split_status(row: DatasetRow, split: str, n_probed: int) -> Status:
    """State of one split of a data set."""
    try:
        disk, records = row.records(split)
    except MissingDataError as e:
        return Status(row.name, split, MISSING, str(e.root / e.missing[0]))
    except (DatasetFormatError, OSError) as e:
        return Status(row.name, split, UNREADABLE, str(e))
    there = present(disk, records)
    state = PRESENT if len(there) == len(records) else PARTIAL if there else MISSING
    media = {m for i in range(len(records)) for m in records.media(i)}
    folders = {str(PurePosixPath(m).parent) for m in media} or {str(disk.place[0])}
    where = ", ".join(str(disk.home / f) for f in _shortest(folders))
    if state == MISSING and media:
        where = str(disk.home / next(iter(sorted(media))))
    kept = {m for i in there for m in records.media(i)}
    videos = sorted(str(disk.home / m) for m in kept) if _is_video(row) else []
    hours, sampled = hours_of(videos, n_probed) if videos else (None, False)
    lost = disk.losses.text() if disk.losses else ""
    return Status(
        row.name, split, state, where, len(there), len(records), hours, sampled, left_out=lost
    )


def _shortest(folders: set[str]) -> list[str]:
    """Up to ``MAX_FOLDERS`` folders; of more the one that all of them are in."""
    if len(folders) <= MAX_FOLDERS:
        return sorted(folders)
    return [os.path.commonpath(folders) or "."]


def _is_video(row: DatasetRow) -> bool:
    return row.home == "video_datasets"


def synthetic_status(name: str, split: str, n_probed: int) -> Status:
    """State of a split of an embedded data set: how much of it is rendered, if it has clips."""
    folder, n_there, n_all = rendered(name, split)
    state = PRESENT if n_there == n_all else PARTIAL if n_there else MISSING
    where = str(folder) if n_there == n_all else f"{folder} (rendered on first use)"
    hours, sampled = hours_of([str(f) for f in sorted(folder.glob("*.mp4"))], n_probed)
    return Status(name, split, state, where, n_there, n_all, hours, sampled)


def hours_of(videos: list[str], n_probed: int) -> tuple[float | None, bool]:
    """Total hours, and whether only ``n_probed`` of the files were opened for it."""
    step = max(len(videos) / max(n_probed, 1), 1.0)
    sample = [videos[int(i * step)] for i in range(min(n_probed, len(videos)))]
    seconds = [s for video in sample if (s := seconds_of(video)) is not None]
    if not seconds:
        return None, False
    mean = sum(seconds) / len(seconds)
    return mean * len(videos) / 3600, len(seconds) < len(videos)


def seconds_of(video: str) -> float | None:
    """Length that the header of a file states; None where there is none."""
    try:
        with foreign(partial(VideoReadError, video)), open_container(video) as container:
            return container.duration / av.time_base if container.duration else None
    except VideoReadError:
        return None


def statuses(
    rows: Iterable[DatasetRow], synthetic: Iterable[str], n_probed: int
) -> Iterable[Status]:
    """State of every split; splits that read the same files are shown once."""
    for name in synthetic:
        if name not in TABLE:
            yield Status(name, "all", PRESENT, "made on the fly, without files")
        yield from (
            synthetic_status(name, split, n_probed) for split in TABLE.get(name, ("", {}))[1]
        )
    for row in rows:
        seen: set[str] = set()
        for split, word in row.splits.items():
            if word not in seen:
                seen.add(word)
                yield split_status(row, split, n_probed)


# --- the catalogue as tables -------------------------------------------------------------------


def markdown() -> Iterator[str]:
    """Lines of the tables in docs/datasets.md: every data set by group."""
    rows = dataset_rows().values()
    for group, title in {**GROUPS, "": OTHERS}.items():
        members = [r for r in rows if group in (r.groups or [""])]
        if members:
            yield f"### {title}" + (f" (`{group}`)" if group else "")
            yield ""
            cells = [[r.name, ", ".join(r.splits), layout(r), origins(r)] for r in members]
            table = markdown_table(["Name", "Splits", "Reads", "Source"], cells)
            yield table.replace("---:", "---")
            yield ""


def layout(row: DatasetRow) -> str:
    """Which files and columns a data set reads: of its row, and of what its function says."""
    function = row.read or row.row
    said = inspect.getdoc(function_of(function)) if function else None
    about = " ".join((said or "").partition("\n\n")[0].split()).replace("``", "`")
    for key, value in row.arguments.items():  # {kind} in it stands for what the row says
        about = about.replace(f"{{{key}}}", str(value))
    files = ", ".join(" or ".join(f"`{f}`" for f in alternatives(names)) for names in row.files)
    parts = ["" if about.startswith(files) else files, about]
    if row.fields:
        columns = [c for v in row.fields.values() for c in (v if isinstance(v, list) else [v])]
        parts[1] = ", ".join(map(str, columns))
    if media := row.video or row.image:
        parts.append("media " + " or ".join(f"`{path}`" for path in alternatives(media)))
    return re.sub(r"\|", "\\\\|", "; ".join(p.rstrip(".") for p in parts if p))


def origins(row: DatasetRow) -> str:
    """Where a data set comes from, in short."""
    gated = {True: " (gated)"}
    names = {
        "hub": lambda s: f"hub `{s['hub']}`" + gated.get(s.get("gated"), ""),
        "web": lambda s: "web",
        "images_of": lambda s: "images by their addresses",
        "frame_clips": lambda s: "clips from frames",
        "by_hand": lambda s: f"[by hand]({s['url']})" if s.get("url") else "by hand",
    }
    return ", ".join(dict.fromkeys(names[next(iter(s))](s) for s in row.sources))


@exit_code()
def main(args: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("names", nargs="*", help="data sets or groups (default: all)")
    parser.add_argument("--mixture", help="the data sets of this mixture")
    parser.add_argument("--root", type=path, help="data folder (default: MOLMO_DATA_DIR)")
    parser.add_argument("--probe", type=natural, default=20, help="videos opened per split (20)")
    parser.add_argument("--markdown", action="store_true", help="print the catalogue, and stop")
    options = parser.parse_args(args)
    if options.markdown:
        print("\n".join(markdown()).rstrip())
        return 0
    if options.root:
        os.environ["MOLMO_DATA_DIR"] = str(options.root.absolute())
    rows = dataset_rows()
    unknown: list[str] = []
    try:
        embedded = [name for name in dataset_names() if name not in rows]
        names = list(options.names) or ([] if options.mixture else [*embedded, *rows])
        if options.mixture:
            mixture = MixtureConfig.load(options.mixture)
            listed = [d.name for g in mixture.groups for d in g.datasets if d.path is None]
            listed = [name for name in listed if name != CUSTOM]
            unknown = [name for name in listed if name not in (*rows, *embedded)]
            names += [name for name in listed if name not in unknown]
        synthetic = [name for name in dict.fromkeys(names) if name in embedded]
        chosen = select_rows(name for name in names if name not in embedded)
    except ValueError as e:
        parser.error(str(e))
    print(f"data folder: {data_root()}\n{HEADER}")
    found = []
    for status in statuses(chosen, synthetic, options.probe):
        found.append(status)
        print(status.line(), flush=True)
    counts = {s: sum(f.state == s for f in found) for s in (PRESENT, PARTIAL, MISSING, UNREADABLE)}
    print(", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if unknown:
        print("without a reader: " + ", ".join(unknown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
