"""From stored tensors of any layout to native parameters.

A model is written to only after every name and shape has been checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from olmo.models.errors import CheckpointError, everywhere
from olmo.models.hf_layout.keys import (
    EMBEDDING,
    NATIVE_HEAD,
    PATCHES,
    SCORER,
    VIT_BLOCK,
    Rule,
    find_group,
    native_name,
)
from olmo.models.tensors import Shape, check_finite, own_part
from olmo.models.weight_files import WeightSource


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a stored tensor."""

    key: str
    start: int
    stop: int


def cut_rows(wanted: Sequence[int], given: dict[str, int]) -> list[list[Piece]]:
    """Which rows of the ``given`` tensors (name -> rows), one under the other, make up each of
    the ``wanted`` numbers of rows, of which there may not be more."""
    pieces, start = [], 0
    for rows in wanted:
        stop, first, mine = start + rows, 0, []
        for key, size in given.items():
            a, b = max(start, first), min(stop, first + size)
            if a < b:
                mine.append(Piece(key, a - first, b - first))
            first += size
        pieces.append(mine)
        start = stop
    return pieces


def has_tied_head(source: WeightSource) -> bool:
    """Whether the output head, if there is one, is the embedding table.

    Folders in a Hugging Face layout store a head even then, so the two tensors are compared.
    """
    (key,) = source.stored(NATIVE_HEAD)
    if key not in source.shapes:
        return True
    tables = [k for k in source.stored(EMBEDDING) if k in source.shapes]
    if any(len(source.shapes[k]) != 2 for k in (key, *tables)):
        return False
    head, start = source.read(key), 0
    for table in tables:  # the rows of the visual tokens follow; the head has none of them
        rows = source.read(table, 0, len(head) - start)
        if not torch.equal(head[start : start + len(rows)], rows):
            return False
        start += len(rows)
    return start == len(head)


def missing_keys(names: Iterable[str], source: WeightSource) -> list[str]:
    """For those native ``names`` that ``source`` does not hold, a stored name that is missing."""
    absent = ([k for k in source.stored(n) if k not in source.shapes] for n in names)
    return [keys[0] for keys in absent if keys]


def may_stay_unread(name: str, params: Collection[str]) -> bool:
    """Whether a checkpoint may hold the native ``name``, which the model of ``params`` lacks: a
    token scorer, for one that prunes without it; blocks of the ViT after the last that the
    connector reads; and the head of a tied model."""
    if name.startswith(SCORER):
        return not any(p.startswith(SCORER) for p in params)
    if block := VIT_BLOCK.match(name):
        built = [int(m[1]) for p in params if (m := VIT_BLOCK.match(p))]
        return int(block[1]) > max(built, default=-1)
    return name == NATIVE_HEAD and name not in params


def _check_shapes(expected: Shape, group: Rule, source: WeightSource) -> None:
    """``expected``: the shape of the native tensors of ``group``, one under the other."""
    stored = [source.shapes[key] for key in group.other]
    flat = stored
    if PATCHES in group.native:  # as a convolution
        flat = [(s[0], math.prod(s[1:])) if len(s) == 4 else s for s in stored]
    fits = all(s and s[1:] == expected[1:] for s in flat)
    if not fits or sum(s[0] for s in flat) != expected[0]:
        names, shapes = (" + ".join(map(str, x)) for x in (map(repr, group.other), stored))
        raise CheckpointError(
            f"{source.where}: {names} has shape {shapes}, the model expects {expected}"
        )


PART_NUMEL = 1 << 20
"""About how many numbers are checked and copied at a time."""


class NativeWeights:
    """``source`` under native names: the tensors that ``params`` (any device, meta too) names.

    ``plan`` says where the rows of each parameter lie in ``source``, of a sharded one those of this
    rank. ``CheckpointError`` for a missing name, a shape that does not fit, or a tensor that
    nothing reads and that is not one of ``may_stay_unread`` or of the names ``unread``, native or
    stored.
    """

    def __init__(
        self,
        params: dict[str, Tensor],
        source: WeightSource,
        unread: re.Pattern[str] | None = None,
    ):
        self.source = source
        if lost := missing_keys(params, source):
            raise CheckpointError(f"{source.where}: {len(lost)} missing keys, first {lost[0]!r}")
        self.plan: dict[str, list[Piece]] = {}
        rest = set(source.shapes)
        for name, param in params.items():
            group = find_group(name, source.rules)
            assert group is not None and params.keys() >= set(group.native), name
            wanted = [params[n].shape[0] for n in group.native]
            _check_shapes((sum(wanted), *param.shape[1:]), group, source)
            own, before = own_part(param)[1][0], sum(wanted[: group.native.index(name)])
            rows = {k: source.shapes[k][0] for k in group.other}
            self.plan[name] = cut_rows([before + own.start, own.stop - own.start], rows)[1]
            rest.difference_update(group.other)
        self._check_rest(params, rest, unread)

    def _check_rest(
        self, params: dict[str, Tensor], rest: set[str], unread: re.Pattern[str] | None
    ) -> None:
        """``CheckpointError`` for stored keys that nothing reads and that may not stay so."""
        source = self.source
        lost = [
            key
            for key in sorted(rest)
            if not may_stay_unread(name := native_name(key, source.rules), params)
            and not (unread and (unread.fullmatch(key) or unread.fullmatch(name)))
        ]
        if lost:
            first = ", ".join(map(repr, lost[:3])) + (", ..." if len(lost) > 3 else "")
            raise CheckpointError(
                f"{source.where}: {len(lost)} tensors have no place in this model: {first}"
            )
        # the layouts of Hugging Face were compared when their config was made
        tied = NATIVE_HEAD not in params and EMBEDDING in params
        if tied and source.layout is None and not has_tied_head(source):
            raise CheckpointError(
                f"{source.where}: the output head is not the embedding table, but the config ties "
                "them (llm.weight_tying)"
            )

    def dtype(self, name: str) -> torch.dtype:
        """Stored type of ``name``."""
        return self.source.dtypes[self.plan[name][0].key]

    def parts(self, name: str, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """Tensors whose rows, one under the other, are those of ``name``, of a sharded one those
        of this rank; ``CheckpointError`` if one holds a value that is not finite, or would not be
        as ``dtype``. They are small, so that a check costs little: what it reads is still in the
        processor's cache when it is copied."""
        for piece in self.plan[name]:
            tensor = self.source.read(piece.key, piece.start, piece.stop)
            if tensor.dim() == 4:  # PATCHES as a convolution
                tensor = tensor.permute(0, 2, 3, 1).flatten(1)
            rows = max(PART_NUMEL // max(tensor[:1].numel(), 1), 1)
            for part in tensor.split(rows):
                yield check_finite(part, self.source.where, piece.key, dtype)

    @torch.no_grad()
    def copy_into(self, params: dict[str, Tensor]) -> None:
        """Fill ``params``, of the shapes that were checked, in place.

        Values that are not finite are only found on the way. Of a sharded parameter each rank
        reads its own rows, and every rank calls this; an error of one is raised on all.
        """

        def fill() -> None:
            for name in self.plan:
                assign(params[name], self.parts(name, params[name].dtype))

        is_sharded = any(isinstance(param, DTensor) for param in params.values())
        everywhere(fill) if is_sharded else fill()


def assign(param: Tensor, rows: Iterable[Tensor]) -> None:
    """Fill this rank's part of ``param`` with ``rows``, each tensor below the one before."""
    local, (_, *columns) = own_part(param)
    start = 0
    for part in rows:
        local[start : start + len(part)].copy_(part[(slice(None), *columns)])
        start += len(part)


def assign_whole(param: Tensor, value: Tensor) -> None:
    """Fill this rank's part of ``param`` from the whole ``value``."""
    local, part = own_part(param)
    local.copy_(value[part])
