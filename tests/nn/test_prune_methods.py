"""The training-free methods against their rules, written out cell by cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from olmo.nn.temporal_image_vit import TemporalVitConfig
from olmo.nn.token_layout import CellGrid, VideoSpan
from olmo.nn.token_pruning import PRUNE_METHODS, ScoreInputs

CPU = torch.device("cpu")
GRID = CellGrid.build(3, 4, 2, CPU)
VIDEOS = (VideoSpan(0, 6, 10), VideoSpan(6, 4, 2))


def frames(n: int, seed: int) -> Tensor:
    """Features [n, N, E] in which most cells stay, some drift and some frames are new."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = [draw(12, 3)]
    for _ in range(n - 1):
        new = torch.rand(12, 1, generator=generator) < (0.9 if draw(1) > 1 else 0.2)
        x.append(torch.where(new, draw(12, 3), x[-1] + 0.1 * draw(12, 3)))
    return torch.stack(x)


def inputs(seed: int, threshold: float) -> ScoreInputs:
    x = torch.cat((frames(6, seed), frames(4, seed + 100)))
    has_previous = torch.tensor([t not in (0, 6) for t in range(10)])
    images = torch.zeros(10, 12, 3, dtype=torch.uint8)
    config = TemporalVitConfig(new_ref_threshold=threshold)
    return ScoreInputs(x, images, has_previous, GRID, VIDEOS, config)


def cell(x: Tensor, t: int, m: int) -> Tensor:
    window = GRID.windows[m]
    return x[t, window[window >= 0]].flatten()


def expected(method: str, given: ScoreInputs) -> Tensor:
    scores = torch.zeros(len(given.x), GRID.n_cells)
    for video in given.videos:
        places = range(GRID.n_cells)
        reference = [cell(given.x, video.start, m) for m in places]
        later = range(video.start + 1, video.start + video.n_frames)
        mean = {}
        for t in later:
            now = [cell(given.x, t, m) for m in places]
            similar = [cosine_similarity(now[m], reference[m], 0) for m in places]
            mean[t] = sum(similar).item() / GRID.n_cells
            for m in places:
                scores[t, m] = 1 - similar[m]
                under = min(float(similar[m]), mean[t]) < given.config.new_ref_threshold
                if method != "heuristic" or under:
                    reference[m] = now[m]
        if method == "evs":
            continue
        threshold = given.config.new_ref_threshold
        while sum(mean[t] >= threshold for t in later) * GRID.n_cells < video.n_remove:
            threshold -= 0.05
        for t in later:
            scores[t] += 2.0 * (mean[t] < threshold)
    return scores


@pytest.mark.parametrize("method", ["easy", "heuristic", "evs"])
@pytest.mark.parametrize("threshold", [0.85, 0.5, -1.0, 1.0])
def test_scores(method: str, threshold: float) -> None:
    protected = 0
    for seed in range(8):
        given = inputs(seed, threshold)
        found = PRUNE_METHODS[method].score(given)
        want = expected(method, given)
        rows = given.has_previous
        torch.testing.assert_close(found[rows], want[rows], atol=1e-5, rtol=0)
        protected += int((want > 2).sum())
    assert (protected > 0) == (method != "evs" and threshold > 0)


def test_references_matter() -> None:
    """A slow drift adds up against a reference, and does not from frame to frame."""
    start, end = torch.randn(2, 12, 3)
    drift = torch.stack([start + (end - start) * t / 5 for t in range(6)])
    given = ScoreInputs(
        *(drift, torch.zeros(6, 12, 3), torch.arange(6) > 0, GRID, (VideoSpan(0, 6, 4),)),
        TemporalVitConfig(new_ref_threshold=-2.0),
    )
    easy, heuristic = (PRUNE_METHODS[m].score(given)[1:].mean(1) for m in ("easy", "heuristic"))
    assert (heuristic[1:] > heuristic[:-1]).all() and heuristic[-1] > 2 * easy[-1]
