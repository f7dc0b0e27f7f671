"""From stored tensors of any layout to native parameters.

A model is written to only after every name and shape has been checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from olmo.models.hf_layout.keys import EMBEDDING, HEAD, Group, Rule, find_group, rules_of
from olmo.models.weight_files import CheckpointError, DcpSource, WeightSource


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a stored tensor."""

    key: str
    start: int
    stop: int


def cut_rows(wanted: Sequence[int], given: dict[str, int]) -> list[list[Piece]]:
    """Which rows of the ``given`` tensors (name -> rows), one under the other, make up each of
    the ``wanted`` numbers of rows. Both must have the same sum."""
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
    """Whether the output head of a folder in a Hugging Face layout is its embedding table.

    Such folders store the head even then, so the two tensors are compared.
    """
    if HEAD not in source.shapes:
        return True
    group = find_group(EMBEDDING, rules_of(source.shapes.keys()))
    assert group is not None
    given = {key: source.shapes[key][0] for key in group.other if key in source.shapes}
    head, start = source.read(HEAD), 0
    for piece in cut_rows([len(head)], given)[0]:
        rows = source.read(piece.key)[piece.start : piece.stop]
        if not torch.equal(head[start : start + len(rows)], rows):
            return False
        start += len(rows)
    return start == len(head)


def missing_keys(names: Sequence[str], source: WeightSource, rules: Sequence[Rule]) -> list[str]:
    """Those native ``names`` that ``source`` does not hold."""
    groups = ((name, find_group(name, rules)) for name in names)
    return [n for n, g in groups if g is None or any(k not in source.shapes for k in g.other)]


def plan_reading(
    params: dict[str, Tensor], source: WeightSource, rules: Sequence[Rule]
) -> dict[str, list[Piece]]:
    """Where each parameter's rows lie in ``source``; every shape is checked.

    ``CheckpointError`` for a missing name or a shape that does not fit.
    """
    lost = missing_keys(list(params), source, rules)
    if lost:
        group = find_group(lost[0], rules)
        names = (lost[0],) if group is None else group.other
        first = next(n for n in names if n not in source.shapes)
        raise CheckpointError(f"{source.where}: {len(lost)} missing keys, first {first!r}")
    plan: dict[str, list[Piece]] = {}
    for name, param in params.items():
        group = find_group(name, rules)
        assert group is not None
        together = [n for n in group.native if n in params]
        if together != list(group.native):
            raise CheckpointError(f"{source.where}: {name!r} is only read with {group.native}")
        wanted = [params[n].shape[0] for n in group.native]
        _check_shapes(param, wanted, group, source)
        rows = {k: source.shapes[k][0] for k in group.other}
        plan[name] = cut_rows(wanted, rows)[group.native.index(name)]
    return plan


def _check_shapes(param: Tensor, wanted: Sequence[int], group: Group, source: WeightSource) -> None:
    """``wanted``: rows of the native tensors of ``group``, one of which is ``param``."""
    rest, total = tuple(param.shape[1:]), 0
    one = len(group.other) == len(wanted) == 1
    for key in group.other:
        stored = source.shapes[key]
        if group.rule.is_convolution and len(stored) == 4:
            stored = (stored[0], math.prod(stored[1:]))
        if len(stored) != 1 + len(rest) or stored[1:] != rest or (one and stored[0] != wanted[0]):
            expected = (wanted[0], *rest) if one else ("any", *rest)
            raise CheckpointError(
                f"{source.where}: {key!r} has shape {source.shapes[key]}, "
                f"the model expects {expected}"
            )
        total += stored[0]
    if total != sum(wanted):
        raise CheckpointError(
            f"{source.where}: {' + '.join(map(repr, group.other))} have {total} rows in all, the "
            f"model expects {sum(wanted)}"
        )


class NativeWeights:
    """``source`` under native names: the tensors that ``params`` (any device, meta too) names."""

    def __init__(self, params: dict[str, Tensor], source: WeightSource, rules: Sequence[Rule]):
        self.source, self.rules = source, rules
        self.plan = plan_reading(params, source, rules)

    def dtype(self, name: str) -> torch.dtype:
        """Stored type of ``name``."""
        return self.source.dtypes[self.plan[name][0].key]

    def parts(self, name: str) -> list[Tensor]:
        """Tensors whose rows, one under the other, are those of ``name``."""
        group = find_group(name, self.rules)
        assert group is not None
        parts = []
        for piece in self.plan[name]:
            tensor = self.source.read(piece.key)
            if group.rule.is_convolution:
                tensor = tensor.permute(0, 2, 3, 1).flatten(1)
            parts.append(tensor[piece.start : piece.stop])
        return parts


@torch.no_grad()
def copy_weights(params: dict[str, Tensor], source: WeightSource, rules: Sequence[Rule]) -> None:
    """Fill ``params`` (native names) in place; nothing is written if a name or shape is wrong."""
    weights = NativeWeights(params, source, rules)
    if isinstance(source, DcpSource):
        source.copy_into(params)
        return
    for name, param in params.items():
        assign(param, weights.parts(name))


def assign(param: Tensor, parts: list[Tensor]) -> None:
    """Write ``parts``, one under the other, into a plain or a sharded parameter."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(param, DTensor):
        value = torch.cat(parts).to(param.device, param.dtype)
        param.copy_(distribute_tensor(value, param.device_mesh, param.placements))
        return
    start = 0
    for part in parts:
        param[start : start + len(part)].copy_(part)
        start += len(part)
