"""How often a forward pass waits for the device: a fixed number of times, whatever its frames.

On the CPU nothing waits, so the operations are counted whose result decides a size or a branch on
the host: on a GPU each of them is a synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.conftest import PRUNING, build, collate, image_row, text_row, video_row

SYNCS = ("nonzero", "_local_scalar_dense", "masked_select", "equal", "unique")


class SyncCounter(TorchDispatchMode):
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.names: list[str] = []
        original = Tensor.tolist

        def tolist(x: Tensor) -> Any:
            self.names.append("tolist")
            return original(x)

        monkeypatch.setattr(Tensor, "tolist", tolist)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        indices = args[1] if name.startswith("index") and isinstance(args[1], list) else []
        if name in SYNCS or any(i is not None and i.dtype == torch.bool for i in indices):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


HOST_COUNTS = 3  # frames per row, and their types, are read from tensors that stay on the host


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("method", ["scorer", "easy", "random", "evs"])
def test_syncs_do_not_grow_with_frames_or_videos(
    train: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(PRUNING, {"vision_backbone": {"vit": {"prune_method": method}}}).train(train)
    counts = []
    for rows in (
        [video_row(3, 0)],
        [video_row(16, 1)],
        [video_row(5, 2), video_row(9, 3), text_row(9, 4), image_row(5)],
    ):
        batch = collate(*rows)
        model(**batch)  # what is made once and kept
        with monkeypatch.context() as patch, SyncCounter(patch) as counter:
            model(**batch)
        counts.append(len(counter.names) - HOST_COUNTS)
    limit = 7 if method == "evs" else 5  # evs looks for its tokens among the pooled ones
    assert counts[0] == counts[1] == counts[2] <= limit, counts
