"""Settings of a pruning ViT, and the table of methods that score its cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from olmo.nn.image_vit import VitConfig
from olmo.nn.token_layout import CellGrid, VideoSpan
from olmo.nn.token_scorer import TemporalTokenScorer
from olmo.token_budget import check_topk


@dataclass
class TemporalVitConfig(VitConfig):
    """ViT plus STTS. A method reads its own settings here: see ``ScoreInputs.config``."""

    prune: bool = True
    """False: a dense ViT with the same weights."""
    topk: float = 0.5
    """Share of a video's pooled cells to remove, in [0, 1)."""
    prune_at: int = 3
    """The scorer reads the output of this block (0-based)."""
    prune_method: str = "scorer"
    """A name of ``PRUNE_METHODS``: ``scorer`` is the learned one; ``easy``, ``heuristic``,
    ``random`` and ``evs`` need no training."""
    sim_reg_loss_coefficient: float = 0.5
    """Weight of the auxiliary loss."""
    rescale_bias_min: float = math.exp(-2)
    """Lower end of the rescaled scores whose log is the attention bias."""
    prune_from_frame: int = 0
    """This many frames of each video do not count for the budget."""
    pruning_in_scorer: bool = True
    """False: score and bias, but remove nothing in the ViT; the cells still leave the LLM."""
    layout: Literal["ragged", "packed"] = "ragged"
    """How survivors lie in the pruned blocks: nothing else, or whole frames in bins of N slots."""
    refill: bool = False
    """``packed`` only: a frame that is alone in its bin keeps its removed patches in the ViT, as
    in the reference; its result then depends on the other frames of the batch."""
    bias_rescale: Literal["row", "frame"] = "row"
    """Where minimum and maximum of the bias are taken; published checkpoints use ``row``."""
    detach_similarity: bool = False
    """Detach the target of the auxiliary loss, so that it cannot move the ViT."""
    new_ref_threshold: float = 0.85
    """``easy`` and ``heuristic``: similarity under which a frame or cell counts as new."""
    random_seed: int = 0
    """Seed of ``prune_method=random``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_topk(self.topk)
        self.require("in (0, 1]", lambda value: 0 < value <= 1, "rescale_bias_min")
        counted = ("prune_from_frame", "prune_at", "sim_reg_loss_coefficient")
        self.require("a number of at least 0", lambda value: 0 <= value < math.inf, *counted)
        self.require("a finite number", math.isfinite, "new_ref_threshold")
        if self.prune_method not in PRUNE_METHODS:
            known = ", ".join(sorted(PRUNE_METHODS))
            raise ValueError(
                f"prune_method {self.prune_method!r} is not one of {known}; one of your own needs "
                "--plugin FILE, or in Python its module imported first"
            )
        if self.layout not in ("ragged", "packed"):
            raise ValueError(f"layout {self.layout!r} is not one of packed, ragged")
        if self.refill and self.layout != "packed":
            raise ValueError(f"refill=True needs layout=packed, got layout={self.layout}")

    @property
    def method(self) -> PruneMethod:
        return PRUNE_METHODS[self.prune_method]


@dataclass(frozen=True)
class ScoreInputs:
    """What a method may look at.

    Attributes:
        x: [P, N, E] what is compared, for the frames of prunable videos: the output of ViT block
            ``prune_at``, or the pooled tokens, one patch each, for a method with ``pooled``.
        images: [P, patches, patch_dim] the frames' pixels, uint8 or float in [-1, 1].
        has_previous: [P] bool, False for the first frame of each video.
        grid: the N patches and M cells of ``x``.
        videos: frames and budget of each prunable video.
        config: every setting of the ViT and of pruning.
        scorer: the learned module; None for the training-free methods.
    """

    x: Tensor
    images: Tensor
    has_previous: Tensor
    grid: CellGrid
    videos: tuple[VideoSpan, ...]
    config: TemporalVitConfig
    scorer: TemporalTokenScorer | None = None


ScoreFunction = Callable[[ScoreInputs], Tensor]


@dataclass(frozen=True)
class PruneMethod:
    """A registered method.

    Attributes:
        score: gives scores [P, M], high = keep.
        learned: uses the trained scorer; its scores bias block ``prune_at + 1``.
        pooled: scores the connector's output, so tokens leave only before the language model.
    """

    score: ScoreFunction
    learned: bool = False
    pooled: bool = False

    @property
    def spreads_ties(self) -> bool:
        """Whether equal scores are chosen from all over the video. A still picture gives a
        training-free method nothing but equal scores; published scorers take the earlier cell."""
        return not self.learned


PRUNE_METHODS: dict[str, PruneMethod] = {}


def prune_method(
    name: str, learned: bool = False, pooled: bool = False
) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a scoring function under the value of ``TemporalVitConfig.prune_method``. A
    module may define its method anew, but take no other's name."""

    def add(function: ScoreFunction) -> ScoreFunction:
        taken = PRUNE_METHODS.get(name)
        if taken and taken.score.__module__ != function.__module__:
            of = taken.score.__module__
            raise ValueError(f"prune_method {name!r} is that of {of}: take another name")
        PRUNE_METHODS[name] = PruneMethod(function, learned, pooled)
        return function

    return add


def training_free_methods() -> list[str]:
    """Names of the methods that need no trained scorer."""
    return sorted(name for name, method in PRUNE_METHODS.items() if not method.learned)
