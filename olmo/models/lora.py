"""Low-rank adapters (LoRA, arXiv:2106.09685): their config, and merging them on reading.

A matrix W [out, in] of a target stays as it is and gains ``alpha / rank * B @ A``, with A
[rank, in] and B [out, rank]. peft's layers do this in the model, so a training checkpoint holds
``X.base_layer.weight``, ``X.lora_A.default.weight`` and ``X.lora_B.default.weight`` for every
``X.weight``. Whoever reads such a checkpoint to use it gets ``X.weight`` alone (``merged``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from olmo.config import Config, ConfigError, read_settings
from olmo.models.errors import CheckpointError
from olmo.models.tensors import WeightSource
from olmo.nn.ranges import POSITIVE, PROBABILITY

LAYERS = {
    "llm": r"transformer\.blocks\.\d+\.(att_proj|attn_out|ff_proj|ff_out)",
    "vit": r"vision_backbone\.image_vit\.transformer\.resblocks\.\d+"
    r"\.(attention\.w[qkvo]|feed_forward\.w[12])",
}
"""Linear layers that get adapters, by parameter group: all of every block."""
BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
ADAPTER = ".lora_"


@dataclass
class LoraConfig(Config):
    """Adapters in place of full training of whole parameter groups."""

    rank: int = 16
    targets: str = "llm"
    """``llm``, ``vit`` or ``llm,vit``. Everything else of these groups is frozen."""
    alpha: float | None = None
    """Strength of the adapters, ``alpha / rank``; None: twice the rank."""
    dropout: float = 0.0
    """Of the adapters' inputs."""

    @property
    def groups(self) -> list[str]:
        return [name.strip() for name in self.targets.split(",")]

    @property
    def scale(self) -> float:
        return 2.0 if self.alpha is None else self.alpha / self.rank

    def __post_init__(self) -> None:
        if unknown := [name for name in self.groups if name not in LAYERS]:
            raise ValueError(f"targets: {unknown[0]!r} is not one of {', '.join(LAYERS)}")
        self.targets = ",".join(group for group in LAYERS if group in self.groups)
        self.at_least(1, "rank")
        self.in_range(PROBABILITY, "dropout")
        self.in_range(POSITIVE, "alpha")


def native_state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of ``model`` by their native names, without adapters."""
    state = model.state_dict()
    return {k.replace(BASE, "."): v for k, v in state.items() if ADAPTER not in k}


def add_same_adapters(copy: nn.Module, model: nn.Module) -> None:
    """Give ``copy`` the adapters that ``model`` has, if any; their values are not copied."""
    if settings := getattr(model, "peft_config", None):
        import peft

        peft.inject_adapter_in_model(settings["default"], copy)


def merged(source: WeightSource, config_file: Path) -> WeightSource:
    """``source`` with its adapters, if it has any, merged into what they belong to.

    ``CheckpointError`` if an adapter lacks its other half, its base or a shape that fits, or if
    ``config_file`` does not say how strong they are.
    """
    if not any(ADAPTER in key for key in source.shapes):
        return source
    return MergedSource(source, _config_of(config_file))


def _config_of(file: Path) -> LoraConfig:
    section = read_settings(file).get("lora") if file.is_file() else None
    if not isinstance(section, dict):
        raise CheckpointError(f"{file}: no 'lora' section, but the checkpoint has adapters")
    try:
        return LoraConfig.from_dict(section, "lora")
    except ConfigError as e:
        raise CheckpointError(f"{file}: {e}") from e


class MergedSource(WeightSource):
    """The tensors of ``source`` under native names; ``read`` gives ``W + scale * B @ A``."""

    def __init__(self, source: WeightSource, config: LoraConfig):
        self.source, self.config, self.where = source, config, source.where
        stored = source.shapes
        self.key_of = {k.replace(BASE, "."): k for k in stored if ADAPTER not in k}
        self.shapes = {name: stored[key] for name, key in self.key_of.items()}
        self.dtypes = {name: source.dtypes[key] for name, key in self.key_of.items()}
        self.layers = {k[: k.index(ADAPTER)] for k in stored if ADAPTER in k}
        known = {layer + form for layer in self.layers for form in (A, B)}
        if unknown := sorted({k for k in stored if ADAPTER in k} ^ known):
            what = "is missing" if unknown[0] in known else "is not a matrix of an adapter"
            raise CheckpointError(f"{self.where}: {unknown[0]!r} {what}")
        for layer in self.layers:
            self._check(layer)

    def _check(self, layer: str) -> None:
        name, a, b = f"{layer}.weight", layer + A, layer + B
        found = [self.source.shapes[a], self.source.shapes[b], self.shapes.get(name)]
        rank = self.config.rank
        base = found[2] or ()
        if len(base) != 2 or found[:2] != [(rank, base[1]), (base[0], rank)]:
            raise CheckpointError(
                f"{self.where}: the adapter of {name!r} has shapes {found[0]} and {found[1]}, "
                f"which do not fit rank {rank} and a weight of shape {found[2]}"
            )
        self.dtypes[name] = torch.promote_types(self.dtypes[name], self.source.dtypes[a])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        layer, base = key.removesuffix(".weight"), self.source.read(self.key_of[key], start, stop)
        if layer not in self.layers or layer == key:
            return base
        a, b = self.source.read(layer + A), self.source.read(layer + B, start, stop)
        return (base.float() + self.config.scale * (b.float() @ a.float())).to(self.dtypes[key])
