"""Training batches: lanes of packed or single examples, the same on any number of processes.

The global batch has as many lanes as rows. Lane ``j`` goes through the stream ids ``j``, ``j +
lanes``, ``j + 2 lanes``, ... with a packer of its own, and gives one row per step. Ranks and
workers divide the lanes among themselves, so rows do not depend on how many there are, and the
state of the lanes resumes a run on any number of processes.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from olmo.config import Config, ConfigError, FilePath
from olmo.data.custom import MAX_LINE_BYTES
from olmo.data.examples import BAD_EXAMPLE, ExampleSource, Skipped
from olmo.preprocessing.collator import Collator
from olmo.preprocessing.packing import Packer, PackingConfig

log = logging.getLogger(__name__)

IN_A_ROW = 100
"""So many tries without one usable example end the run, however few examples there are."""


@dataclass
class DataConfig(Config):
    """Training data."""

    mixture: FilePath = "synthetic_video_qa"
    """A file of ``configs/mixtures`` or the path of one."""
    custom: FilePath | None = None
    """A file or folder of own data (``olmo.data.custom``): the mixture's data set ``custom``, or
    half of the examples beside a mixture that has none."""
    skip_missing: bool = False
    """Train on what is there when data sets of the mixture are absent."""
    split: str = "train"
    seed: int = 50189
    sequence_length: int | None = None
    """Tokens of a row after pruning."""
    packing: PackingConfig | None = None
    pad: Literal["longest", "to_max"] = "longest"
    """Rows padded to the longest of the micro-batch, or all to one static size."""
    shuffle: bool = True
    num_workers: int = 0
    """Loader processes per rank."""
    prefetch_factor: int = 4
    """Micro-batches that every worker prepares ahead."""
    pin_memory: bool = True
    max_skipped: int = 100
    """Unreadable files, and other unusable examples, that a run tolerates; each counts once."""
    max_line_bytes: int = MAX_LINE_BYTES
    """Longest line of own data."""

    @classmethod
    def upgrade(cls, data: dict[str, Any]) -> dict[str, Any]:
        """``null`` stands for this project's mixture, padding and reading ahead; a mixture has a
        file."""
        mixture = data.get("mixture")
        if isinstance(mixture, dict):
            raise ConfigError(
                f"data.mixture: {mixture!r} is not a name; write it to a YAML file, and give that "
                "as the MIXTURE argument"
            )
        ours = ("mixture", "pad", "prefetch_factor")
        return {k: v for k, v in data.items() if v is not None or k not in ours}

    def __post_init__(self) -> None:
        self.at_least(0, "max_skipped", "num_workers")
        self.at_least(1, "max_line_bytes", "sequence_length", "prefetch_factor")
        self.check_seed()


class LaneState(TypedDict):
    """Where a lane stands: the next stream id, and the ids waiting in its packer."""

    next_id: int
    buffered: list[int]


class NoUsableExample(ValueError):
    """Too many examples in a row cannot be used."""


class Lane:
    """One row per call of ``next_row``, from ``state`` on; ``step`` is the number of lanes."""

    def __init__(
        self,
        config: DataConfig,
        source: ExampleSource,
        collator: Collator,
        step: int,
        state: LaneState,
    ) -> None:
        self.source, self.collator, self.step = source, collator, step
        self.next_id, self.max_skipped = state["next_id"], config.max_skipped
        self.skipped: list[Skipped] = []
        """Examples left out since the last call of ``take_skipped``."""
        self._said: set[str] = set()
        """What was logged of them: an example that comes up again in the next epoch is not."""
        self.packer: Packer | None = None
        if config.packing is not None:
            assert collator.seq_len is not None
            self.packer = config.packing.build(collator.seq_len, step)
            # What waited is loaded again; what cannot be read any more is skipped.
            loaded = [(i, self._load(i)) for i in state["buffered"]]
            self.packer.restore([(i, example) for i, example in loaded if example is not None])

    def state(self) -> LaneState:
        buffered = self.packer.buffered_ids if self.packer is not None else []
        return {"next_id": self.next_id, "buffered": list(buffered)}

    def take_skipped(self) -> list[Skipped]:
        skipped, self.skipped = self.skipped, []
        return skipped

    def next_row(self) -> dict[str, Any]:
        """The next row that can be read and fits. ``NoUsableExample`` after more than
        ``max_skipped`` different bad ones in a row, or so many tries (at least ``IN_A_ROW``)."""
        before = len(self.skipped)
        while True:
            example_id = self.next_id
            self.next_id += self.step
            example = self._load(example_id)
            if example is None:
                self._check_skipped(self.skipped[before:])
            elif self.packer is None:
                return example
            elif (pack := self.packer.add(example_id, example)) is not None:
                return pack.example

    def _check_skipped(self, in_a_row: list[Skipped]) -> None:
        n_bad = len({skipped.thing for skipped in in_a_row})
        if n_bad > self.max_skipped or len(in_a_row) > max(self.max_skipped, IN_A_ROW):
            raise NoUsableExample(
                f"{len(in_a_row)} examples in a row could not be used, {n_bad} different ones, "
                f"with data.max_skipped={self.max_skipped}; the last one: {in_a_row[-1].text}"
            )

    def _load(self, example_id: int) -> dict[str, Any] | None:
        """The example; None, and an entry in ``skipped``, if it cannot be used."""
        try:
            example = self.source.load(example_id)
            (self.packer or self.collator).check(example)
            return example
        except BAD_EXAMPLE as e:
            skipped = self.source.skipped(example_id, e)
        if skipped.text not in self._said:
            log.warning("skipped %s", skipped.text)
            self._said.add(skipped.text)
        self.skipped.append(skipped)
        return None


@dataclass
class MicroBatch:
    """Some rows of a step: the collated batch without its metadata."""

    tensors: dict[str, Any]
    lanes: dict[int, LaneState]
    """State of the lanes after these rows, by lane number."""
    skipped: list[Skipped]
    """Examples left out on the way to these rows."""
    example_ids: list[str]
    """What names the examples of the rows in messages, one for each."""

    def pin_memory(self) -> MicroBatch:
        """Called by the loader when it feeds a GPU."""
        pinned = {k: v.pin_memory() for k, v in self.tensors.items()}
        return dataclasses.replace(self, tensors=pinned)


@dataclass(frozen=True)
class RowShare:
    """The rows of a step that one rank makes. ``ValueError`` if the ranks cannot share them out
    evenly."""

    global_batch_size: int
    device_batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.global_batch_size % (self.world_size * self.device_batch_size):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} must be a multiple of "
                f"{self.world_size} ranks x device_batch_size {self.device_batch_size}"
            )

    def groups(self) -> list[list[int]]:
        """Lane numbers of each micro-batch of a step."""
        own = range(self.rank, self.global_batch_size, self.world_size)
        size = self.device_batch_size
        return [list(own[i : i + size]) for i in range(0, len(own), size)]


@dataclass
class LaneDataset(IterableDataset[MicroBatch]):
    """Micro-batches of one rank; a worker takes every n-th of a step's micro-batches."""

    config: DataConfig
    source: ExampleSource
    collator: Collator
    share: RowShare
    states: dict[int, LaneState]

    def __iter__(self) -> Iterator[MicroBatch]:
        groups, info = self.share.groups(), get_worker_info()
        if info is not None:
            groups = groups[info.id :: info.num_workers]
        lanes, step = {}, self.share.global_batch_size
        for j in itertools.chain(*groups):
            state = self.states.get(j, {"next_id": j, "buffered": []})
            lanes[j] = Lane(self.config, self.source, self.collator, step, state)
        while True:
            for group in groups:
                batch = self.collator([lanes[j].next_row() for j in group])
                rows_metadata = batch.pop("metadata")
                metadata = [m for r in rows_metadata for m in (r if isinstance(r, list) else [r])]
                yield MicroBatch(
                    batch,
                    {j: lanes[j].state() for j in group},
                    [skipped for j in group for skipped in lanes[j].take_skipped()],
                    [str(m.get("example_id", "?")) for m in metadata],
                )


def build_train_loader(
    config: DataConfig,
    source: ExampleSource,
    collator: Collator,
    share: RowShare,
    states: dict[int, LaneState] | None = None,
    pin_memory: bool = False,
) -> DataLoader[MicroBatch]:
    """Endless loader of this rank's micro-batches.

    ``states`` resumes the lanes of an earlier run; it may come from any number of ranks.
    """
    if states and len(states) != share.global_batch_size:
        raise ValueError(
            f"the checkpoint's loader has {len(states)} lanes, global_batch_size is "
            f"{share.global_batch_size}: resume with the same, or start with "
            "--restore_dataloader=False"
        )
    n = len(share.groups())
    workers = min(config.num_workers, n)
    while workers > 1 and n % workers:
        workers -= 1
    if workers < config.num_workers:
        log.info(
            "%d loader workers used of %d: a step has %d micro-batches per rank",
            *(workers, config.num_workers, n),
        )
    return DataLoader(
        LaneDataset(config, source, collator, share, states or {}),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=config.prefetch_factor if workers else None,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory and config.pin_memory,
    )
