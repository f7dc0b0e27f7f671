"""Teach the tiny model to see before it reads: ViT and connector name what lies in every cell.

python scripts/pretrain_tiny_vision.py START OUT [--steps 3500] [--frames 32]

Frames are drawn on the fly, crowded with things. Three linear heads, thrown away afterwards, read
the visual tokens: which things lie in the cell, where the cell is, and its pixels in small. The
last one keeps what nothing asks for, so that an unchanged cell is known to be unchanged. Writes
OUT/step{N}-unsharded.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmo.command_line import Parser, exit_code, path, positive
from olmo.data.datasets.synthetic.draw import blend, draw_background, pixels_of
from olmo.data.datasets.synthetic.scene import (
    CELL,
    COLOURS,
    DIRECTIONS,
    FRAME_SIZE,
    GLYPHS,
    GRID,
    Thing,
)

if TYPE_CHECKING:
    from torch import Tensor

    from olmo.models.molmo2.molmo2 import Molmo2, Molmo2Config

COLOURED = [(kind, look) for kind in ("ball", "square", "star", "lamp") for look in COLOURS]
SIGNS = [("sign", look) for look in ("", *GLYPHS)]
DRAWN = [*COLOURED, ("leaf", "grey"), *SIGNS]
CLASSES = [*DRAWN, *(("ball towards", way) for way in DIRECTIONS)]
CHANCES = np.array([0.7 / 29] * 29 + [0.3 / 13] * 13)
GOES = 0.5  # share of the balls with an open mouth
N_THINGS, N_BOARDS = (12, 32), 400
CLEAR, SMALL = 16, 4  # pixels of a thing that count as seen; pixels across of a cell in small
RATE, WARM_UP, PRIOR = 1e-3, 100, -5.0
"""Largest learning rate, steps up to it; logit of a class before training."""
RMS, FLOOR = 1.0, 0.01
"""Root mean square of the visual tokens in the end; share of the mean variance under which a
direction counts as noise."""


def draw_sample(boards: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A uint8 frame and how many pixels of every class are seen in every cell."""
    frame = boards[int(rng.integers(len(boards)))].copy()
    owner, mouth = np.full((2, *frame.shape[:2]), len(CLASSES))
    for index in rng.choice(len(DRAWN), size=int(rng.integers(*N_THINGS)), p=CHANCES):
        kind, look = DRAWN[index]
        place = rng.integers(CELL // 2 + 1, FRAME_SIZE - CELL // 2 - 1, size=2)
        goes = kind == "ball" and rng.random() < GOES
        if kind == "sign" or goes:
            place = CELL * (place // CELL) + CELL // 2
        thing, towards = Thing(kind, look, (int(place[0]), int(place[1]))), len(CLASSES)
        if goes:
            way = str(rng.choice(list(DIRECTIONS)))
            x, y = DIRECTIONS[way]
            start = (thing.place[0] - x, thing.place[1] - y)
            thing = replace(thing, place=start, shift=(x, y), span=(-1.0, 1.0))
            towards = CLASSES.index(("ball towards", way))
        blend(frame, thing, 0.0)
        owner[pixels_of(thing, 0.0)], mouth[pixels_of(thing, 0.0)] = index, towards
    both = np.stack([owner, mouth]).reshape(2, GRID, CELL, GRID, CELL).transpose(1, 3, 0, 2, 4)
    cells = both.reshape(GRID * GRID, -1)
    counts = np.stack([np.bincount(c, minlength=len(CLASSES) + 1)[:-1] for c in cells])
    return frame + rng.integers(0, 4, size=(*frame.shape[:2], 1), dtype=np.uint8), counts


class Seeing:
    """The vision backbone of ``model`` under three heads."""

    def __init__(self, model: Molmo2, config: Molmo2Config):
        import torch
        from torch import nn

        from olmo.patch_grid import pooling_windows

        vit, video = config.vision_backbone.vit, config.mm_preprocessor.video
        self.backbone, self.patch = model.vision_backbone, vit.image_patch_size
        grid = vit.image_num_patch
        windows = torch.from_numpy(pooling_windows(*grid, video.pooling_h, video.pooling_w))
        if len(windows) != GRID * GRID:
            raise ValueError(f"{len(windows)} cells per frame, but the board has {GRID * GRID}")
        self.windows, self.n_patches = windows, math.prod(grid)
        self.sizes = (len(CLASSES), 2 * GRID, 3 * SMALL * SMALL)
        self.head = nn.Linear(config.llm.d_model, sum(self.sizes))
        with torch.no_grad():  # as rare as things are, or the backbone learns a constant first
            self.head.bias[: len(CLASSES)] = PRIOR
        self.parameters = [*self.backbone.parameters(), *self.head.parameters()]

    def features(self, frames: np.ndarray) -> Tensor:
        """Visual tokens [frames * cells, D] of uint8 frames."""
        import torch

        from olmo.preprocessing.images import patchify

        n = len(frames)
        patches = torch.from_numpy(patchify(frames, self.patch))[None]
        first = self.n_patches * torch.arange(n)[:, None, None]
        pooling = (self.windows + first).flatten(0, 1)[None]
        return self.backbone(patches, None, pooling, torch.tensor([[n]])).features

    def losses(self, frames: np.ndarray, counts: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """(things, place, pixels)."""
        import torch
        from torch.nn import functional as F

        features = self.features(frames)
        rms = features.square().mean().sqrt()
        things, place, pixels = self.head(features / rms).split(self.sizes, -1)
        seen = torch.from_numpy(counts).flatten(0, 1)
        each = F.binary_cross_entropy_with_logits(things, (seen >= CLEAR).float(), reduction="none")
        sure = (seen == 0) | (seen >= CLEAR)
        row_column = torch.stack(torch.meshgrid(*[torch.arange(GRID)] * 2, indexing="ij"), -1)
        target = row_column.reshape(-1, 2).repeat(len(frames), 1).flatten()
        small = frames.reshape(
            len(frames), GRID, SMALL, CELL // SMALL, GRID, SMALL, CELL // SMALL, 3
        )
        small = small.mean((3, 6)).swapaxes(2, 3).reshape(len(features), -1) / 128 - 1
        return (
            (each * sure).sum(-1).mean(),
            F.cross_entropy(place.reshape(-1, GRID), target),
            F.mse_loss(pixels, torch.from_numpy(small).float()),
        )

    def whiten(self, frames: np.ndarray) -> None:
        """Make all directions of the visual tokens about equally large, and the tokens ``RMS``.

        Colours vary most by far. A language model first learns what is large, and trains the rest
        away before it has a use for it: places, and which way a mouth is open."""
        import torch

        with torch.no_grad():
            features = self.features(frames)
            size, direction = torch.linalg.eigh(torch.cov(features.T))
            scale = (size.clamp(min=0) + FLOOR * size.mean()).rsqrt()
            weight = self.backbone.image_projector.w2.weight
            weight.copy_(direction * scale @ direction.T @ weight)
            weight.mul_(RMS / self.features(frames).square().mean().sqrt())

    def score(self, frames: np.ndarray, counts: np.ndarray) -> dict[str, float]:
        """Shares of clearly seen things that are named first among their kind."""
        import torch

        with torch.no_grad():
            features = self.features(frames)
            logits = self.head(features / features.square().mean().sqrt())[:, : len(CLASSES)]
        counts = counts.reshape(-1, len(CLASSES))
        found = {}
        parts = {"coloured": (0, 28), "signs": (29, len(DRAWN)), "mouths": (-4, None)}
        for name, part in ((name, slice(*ends)) for name, ends in parts.items()):
            alone = (counts[:, part] >= 60).sum(1) == 1
            right = logits[:, part].argmax(1).numpy() == counts[:, part].argmax(1)
            found[name] = float(right[alone].mean())
        return found


@exit_code()
def main() -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("start", type=path, help="checkpoint to start from")
    add("out", type=path, help="run folder to write step{N}-unsharded into")
    add("--steps", type=positive, default=3500)
    add("--frames", type=positive, default=32, help="frames of a step")
    args = parser.parse_args()
    print(pretrain(args.start, args.out, args.steps, args.frames))
    return 0


def pretrain(start: Path, out: Path, steps: int, n_frames: int) -> Path:
    import torch
    from tqdm import trange

    from olmo.models.loading import load_model
    from olmo.train.checkpoint import save_unsharded
    from olmo.train.config import TrainConfig

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    boards = [draw_background(rng) for _ in range(N_BOARDS)]
    model, config = load_model(start, {}, torch.device("cpu"))
    model.train()
    seeing = Seeing(model, config)
    optimizer = torch.optim.AdamW(seeing.parameters, RATE, betas=(0.9, 0.95), weight_decay=0.01)

    def share(step: int) -> float:
        return min(1.0, step / WARM_UP) * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        frames, counts = zip(*(draw_sample(boards, rng) for _ in range(n_frames)), strict=True)
        return np.stack(frames), np.stack(counts)

    for step in (bar := trange(1, steps + 1, unit="step")):
        parts = seeing.losses(*batch())
        optimizer.zero_grad()
        (parts[0] + 0.2 * parts[1] + parts[2]).backward()
        torch.nn.utils.clip_grad_norm_(seeing.parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == 1:
            named = dict(zip(("things", "place", "pixels"), (float(p) for p in parts), strict=True))
            text = ", ".join(f"{k} {v:.3f}" for k, v in (named | seeing.score(*batch())).items())
            bar.write(f"step {step}: {text}")
    seeing.whiten(np.concatenate([batch()[0] for _ in range(8)]))
    folder = out / f"step{steps}-unsharded"
    save_unsharded(model, TrainConfig(model=config), folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
