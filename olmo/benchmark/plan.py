"""Models with random weights, and what to measure on them, under which settings.

A plan is a grid of measurements on one model; a suite is a named list of plans. Nothing here
imports torch before it is needed, so that ``--help`` is fast.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from olmo.config import Config, ConfigError, merge, read_settings
from olmo.model_configs import preset_model_config

if TYPE_CHECKING:
    from torch import nn

    from olmo.models.temporal_video_olmo.temporal_video_olmo import (
        TemporalVideoOlmo,
        TemporalVideoOlmoConfig,
    )

DTYPES = ("float32", "bfloat16")

METHODS = ("scorer", "easy", "heuristic", "random", "evs")
LAYOUTS: dict[str, tuple[Literal["ragged", "packed"], bool]] = {
    "ragged": ("ragged", False),
    "packed": ("packed", False),
    "packed+refill": ("packed", True),
}
"""Spellings of the command line: fields ``layout`` and ``refill``."""

NEW_TOKENS = 32
"""Of an answer that is decoded, behind the prompt."""


@dataclass(frozen=True)
class Stage:
    """A part of the model that is run on its own: ``forward`` and, if ``trains``, backward; or
    the whole model with ``new_tokens`` tokens of an answer."""

    scope: str
    trains: bool
    new_tokens: int = 0


STAGES = {
    "vit": Stage("vit", False),
    "backbone": Stage("backbone", False),
    "prefill": Stage("model", False),
    "train_vit": Stage("vit", True),
    "train_backbone": Stage("backbone", True),
    "train": Stage("model", True),
    "decode": Stage("model", False, NEW_TOKENS),
}
"""``vit``: pixels to the outputs of the read blocks, scoring and planning included; ``backbone``:
ViT and connector; ``prefill``: with the language model, filling its cache; ``train...``: forward
and backward of the same, without an optimizer step; ``decode``: tokens of an answer behind a
filled cache, greedy and without a stop token."""

_TABLES: dict[str, dict[str, Any]] = read_settings(Path(__file__).with_name("plans.yaml"))


def _preset(base: str | None = None, **sections: Any) -> dict[str, Any]:
    """Sections of a model, on top of a preset of ``olmo.model_configs`` if there is a ``base``."""
    return merge(preset_model_config(base), sections) if base else sections


PRESETS = {name: _preset(**row) for name, row in _TABLES["presets"].items()}
"""Model configs. ``small``: width 192, 12 blocks, 27 x 27 patches. ``molmo2_4b``: the sizes of
the released Molmo2-4B; training recomputes the activations of its blocks. The
initialisation is about 1 / sqrt(width), so that attention moves the results that are checked."""


@dataclass(frozen=True)
class ModelSpec:
    """A preset, changed by ``overrides``, on a device. ``bfloat16``: weights in bfloat16 and the
    passes under autocast, as a sharded training run computes."""

    preset: str
    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self) -> TemporalVideoOlmoConfig:
        """``ConfigError`` for an unknown preset or key."""
        if self.preset not in PRESETS:
            raise ConfigError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        data = merge(PRESETS[self.preset], self.overrides)
        data["model_name"] = "temporal_video_olmo"
        from olmo.models.registry import model_config_from_dict

        return cast("TemporalVideoOlmoConfig", model_config_from_dict(data))

    def build(self) -> TemporalVideoOlmo:
        """Model with random weights that are the same for the same seed."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        import torch

        from olmo.models.parallel import checkpoint_activations

        torch.manual_seed(self.seed)
        model = self.config().build(self.device)
        model.reset_parameters()
        model.to(getattr(torch, self.dtype))
        checkpoint_activations(model)
        return model


@dataclass(frozen=True)
class Setting:
    """How a model prunes; ``topk=None`` is the dense model."""

    topk: float | None = None
    method: str = "scorer"
    layout: str = "ragged"

    @property
    def label(self) -> str:
        if self == STOCK:
            return "dense, transformers"
        return "dense" if self.topk is None else f"{self.method} {self.layout} {self.topk:g}"

    @property
    def pooled(self) -> bool:
        """Whether tokens leave behind the ViT, which computes what the dense one does."""
        from olmo.nn.token_pruning import PRUNE_METHODS

        return self.topk is not None and PRUNE_METHODS[self.method].pooled

    def applies(self, stage: Stage) -> bool:
        """A method that prunes pooled tokens changes nothing in the ViT alone; stock
        ``transformers`` runs whole models."""
        runs_here = stage.scope != "vit" or not self.pooled
        return stage.scope == "model" or (runs_here and self != STOCK)

    def of(self, model: TemporalVideoOlmo) -> TemporalVideoOlmo:
        """The same parameters under this setting; ``model`` stays as it is. ``ValueError`` for a
        bad one."""
        fields: dict[str, Any] = {"prune": self.topk is not None}
        if self.topk is not None:
            fields |= {"topk": self.topk, "prune_method": self.method}
            fields["layout"], fields["refill"] = LAYOUTS[self.layout]
        backbone = model.config.vision_backbone
        backbone = replace(backbone, vit=replace(backbone.vit, **fields))
        other = _twin(model, replace(model.config, vision_backbone=backbone))
        other.vision_backbone = _twin(model.vision_backbone, backbone)
        other.vision_backbone.image_vit = _twin(model.vision_backbone.image_vit, backbone.vit)
        return other


M = TypeVar("M", bound="nn.Module")


def _twin(module: M, config: Config) -> M:
    """The same parts in another module, which has a ``config`` of its own."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin.config = config  # type: ignore[assignment]
    return twin


DENSE = Setting()
STOCK = Setting(None, "transformers")
"""The dense model in stock ``transformers``."""


@dataclass(frozen=True)
class Group:
    """Settings on the same inputs."""

    stage: str
    n_frames: int
    n_rows: int
    settings: tuple[Setting, ...]
    vary: bool = False
    new_tokens: int = NEW_TOKENS

    @property
    def work(self) -> Stage:
        stage = STAGES[self.stage]
        return replace(stage, new_tokens=self.new_tokens if stage.new_tokens else 0)

    @property
    def title(self) -> str:
        return f"{self.stage}, {self.n_frames} frames, batch {self.n_rows}"


@dataclass(frozen=True)
class Plan:
    """A grid of measurements: every stage, number of frames and batch size, dense and with every
    topk, method and layout. ``vary``: every round has another number of frames, down to 10% fewer,
    and another length of text; all shapes are new when they come."""

    stages: tuple[str, ...]
    frames: tuple[int, ...]
    topk: tuple[float, ...]
    methods: tuple[str, ...] = ("scorer",)
    layouts: tuple[str, ...] = ("ragged",)
    batch_sizes: tuple[int, ...] = (1,)
    vary: bool = False
    new_tokens: int = NEW_TOKENS

    def settings(self) -> list[Setting]:
        """Dense, then all combinations. A method that prunes after the ViT has no layout."""
        out = [DENSE]
        for method in self.methods:
            layouts = ("ragged",) if Setting(0.0, method).pooled else self.layouts
            out += [Setting(k, method, layout) for layout in layouts for k in self.topk]
        return out

    def groups(self, baseline: str | None = None) -> list[Group]:
        """``ValueError`` for a stage, method, layout or share that does not exist, and for numbers
        that are too small."""
        from olmo.nn.token_pruning import PRUNE_METHODS
        from olmo.token_budget import check_topk

        for name, known in (("stages", STAGES), ("layouts", LAYOUTS), ("methods", PRUNE_METHODS)):
            if unknown := [x for x in getattr(self, name) if x not in known]:
                raise ValueError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
        for share in self.topk:
            check_topk(share)
        for name in ("frames", "batch_sizes"):
            if any(n < 1 for n in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.vary and min(self.frames) < 10:
            raise ValueError(f"vary needs at least 10 frames, got {min(self.frames)}")
        if self.new_tokens < 2:
            raise ValueError(f"new_tokens must be at least 2, got {self.new_tokens}")
        settings = self.settings()
        if baseline:
            settings.insert(1, STOCK)
        out = []
        for stage, n_frames, n_rows in product(self.stages, self.frames, self.batch_sizes):
            chosen = tuple(s for s in settings if s.applies(STAGES[stage]))
            out.append(Group(stage, n_frames, n_rows, chosen, self.vary, self.new_tokens))
        return out


@dataclass(frozen=True)
class Suite:
    """Plans on one model, with the device and number type that they are meant for."""

    plans: tuple[Plan, ...]
    preset: str
    device: str
    dtype: str


def _suite(plans: list[dict[str, Any]], **model: str) -> Suite:
    def read(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return Suite(tuple(Plan(**{k: read(v) for k, v in row.items()}) for row in plans), **model)


SUITES = {name: _suite(**row) for name, row in _TABLES["suites"].items()}
"""Each of ``gpu-...`` is meant to fit into ten minutes on an H100: by FLOPs, it is not measured."""
